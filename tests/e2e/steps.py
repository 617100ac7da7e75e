"""What the service asks for at each step of a replacement."""

UP_TO_REMOVAL = {
    "entry": ("create configmaps", 1),
    "mark": ("patch persistentvolumes", 2),
    "entry again": ("update configmaps", 1),
    "delete": ("delete persistentvolumes", 1),
    "detach": ("patch persistentvolumes", 3),
    "remove": ("update persistentvolumes", 1),
    "forget": ("delete configmaps", 1),
}
"""The request's label, and for the how manieth time, where the volume is never seen to be away. The
first patch tries whether the cluster lets an affinity be changed.
"""

STEPS = {**UP_TO_REMOVAL, "create": ("create persistentvolumes", 1)}
"""Also where the volume may be away."""
