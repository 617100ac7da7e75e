"""Remote access policies: from which nodes a volume may be used, given where its data is."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from linstor_affinity_events.errors import BadPolicy
from linstor_affinity_events.model.keys import HOSTNAME_LABEL
from linstor_affinity_events.model.quantity import memory_of

TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False"})
"""What Go's strconv.ParseBool accepts; linstor-csi, and so every StorageClass, relies on it."""

UNSET = frozenset({"", "null", "Null", "NULL", "~"})
"""Texts that linstor-csi's YAML reader reads as no policy: such a parameter counts as unset."""

MAX_TEXT = 4 * 1024
"""Parsing time grows with the square of the size of hostile text."""

LONGEST_OPTIONS = 16 * 1024
"""Characters of one option of a StorageClass."""

MAX_RULES = 16
MAX_LABELS = 16
"""Per rule. Each rule is compared with each other one for every replica of every volume."""

_MAX_BRACKETS = 64
"""The parser takes longer for each, the more others are open: 4,000 took a second. Dashes in one
line open lists as well.
"""

_NESTED_DASH = re.compile(r"-\s+(?=-)")

_MAX_PARTS = 400
"""Commas and lines. YAML ends a line at other characters than line feeds, too."""

_REMOTE_LAYERS = frozenset({"drbd", "nvme"})
_PREFIX = "linstor.csi.linbit.com/"
_FILE_SYSTEM = "csi.storage.k8s.io/fstype"
"""A parameter for csi-provisioner, which knows `fstype` too."""


@dataclass(frozen=True, slots=True)
class Policy:
    """Rules of label keys: a node may use a volume if it shares all labels of some rule with a
    node that has the data. Every node matches a rule without labels.
    """

    rules: tuple[frozenset[str], ...]

    def __str__(self) -> str:
        if self == EVERYWHERE:
            return "everywhere"
        if self == LOCAL_ONLY:
            return "local only"
        return " or ".join("same " + "+".join(sorted(r)) if r else "any" for r in self.rules)


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A policy text that is not valid; volumes with it are not changed."""

    text: str
    why: str


EVERYWHERE = Policy((frozenset(),))
LOCAL_ONLY = Policy((frozenset({HOSTNAME_LABEL}),))

PolicyReading = Policy | Unreadable


def widest(readings: Iterable[PolicyReading]) -> PolicyReading:
    """One policy that admits what any of several admits. Unreadable if one of them is, unless
    another admits every node, because nothing is wider than that.
    """
    given = tuple(readings)
    if EVERYWHERE in given:
        return EVERYWHERE
    for each in given:
        if isinstance(each, Unreadable):
            return each
    rules = dict.fromkeys(rule for each in given if isinstance(each, Policy) for rule in each.rules)
    if len(rules) > MAX_RULES:
        return Unreadable("", f"more than {MAX_RULES} rules together")
    return Policy(tuple(rules))


def read_policy(text: str, parse_yaml: Callable[[str], object]) -> PolicyReading:
    """Read a Go boolean (true: everywhere, false: local only) or a YAML list of
    `{fromSame: [label, ...]}`, all its scalars as text. Returns Unreadable instead of raising.

    linstor-csi ignores unknown keys, so a misspelled `fromsame` becomes a rule that admits every
    node; here it is not valid.
    """
    if text in TRUE:
        return EVERYWHERE
    if text in FALSE:
        return LOCAL_ONLY
    if len(text) > MAX_TEXT:
        return Unreadable(text[:80], f"longer than {MAX_TEXT} characters")
    opening = sum(map(text.count, "[{?")) + len(_NESTED_DASH.findall(text))
    if opening > _MAX_BRACKETS or text.count(",") + len(text.splitlines()) > _MAX_PARTS:
        return Unreadable(text[:80], "too many brackets, commas or lines")
    try:
        return Policy(tuple(dict.fromkeys(_rules(parse_yaml(text)))))
    except BadPolicy as error:
        return Unreadable(text[:200], str(error))


def _rules(tree: object) -> list[frozenset[str]]:
    if not isinstance(tree, list):
        raise BadPolicy("neither true nor false nor a list of {fromSame: [label, ...]}")
    if len(tree) > MAX_RULES:
        raise BadPolicy(f"more than {MAX_RULES} rules")
    return [_rule(number, item) for number, item in enumerate(tree, start=1)]


def _rule(number: int, item: object) -> frozenset[str]:
    if not isinstance(item, Mapping) or not set(item) <= {"fromSame"}:
        raise BadPolicy(f"rule {number} is not of the form fromSame: [label, ...]")
    labels = item.get("fromSame", [])
    if not isinstance(labels, list) or not all(
        isinstance(x, str) and x and x.isprintable() for x in labels
    ):
        raise BadPolicy(f"rule {number}: fromSame is not a list of label names")
    if len(labels) > MAX_LABELS:
        raise BadPolicy(f"rule {number}: more than {MAX_LABELS} labels")
    return frozenset(labels)


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageClass:
    """What a StorageClass of our driver says about access."""

    name: str
    policy: PolicyReading | None
    """None if it sets no policy and the default applies."""
    remote_layers: bool = True
    """Whether its layers can bring the data to another node at all."""
    is_ours: bool = True
    """Whether its provisioner is LINSTOR's CSI driver."""
    balanced: bool = False
    """linstor-csi sets an affinity of its own for placementPolicy Balanced."""
    mount_options: tuple[str, ...] = ()
    context_options: str = ""
    """More mount options, which linstor-csi writes into the volume attributes."""
    commands: str = ""
    """What linstor-csi runs with xfs_io after it has mounted a volume."""
    file_system: str = ""
    """What csi-provisioner writes as the file system of a volume."""

    @classmethod
    def read(
        cls,
        name: str,
        parameters: Mapping[str, str],
        parse_policy: Callable[[str], PolicyReading],
        *,
        is_ours: bool = True,
        mount_options: Iterable[str] = (),
    ) -> "StorageClass":
        """Read its parameters, in any case, with or without linstor-csi's prefix.

        If both spellings are set, the prefixed one counts. Options that are very long, or of
        another driver's class, are left out: then they confirm nothing for a volume.
        """
        known: dict[str, str] = {}
        for key in sorted(parameters, key=lambda key: key.startswith(_PREFIX)):
            if "/" not in key or key.startswith(_PREFIX):
                known[key.removeprefix(_PREFIX).lower()] = parameters[key]
        given = tuple(mount_options)

        def short(text: str | None) -> str:
            return text if text and is_ours and len(text) <= LONGEST_OPTIONS else ""

        text = known.get("allowremotevolumeaccess")
        layers = known.get("layerlist", "drbd storage").lower().split()
        return cls(
            name=name,
            is_ours=is_ours,
            policy=None if text is None or text.strip() in UNSET else parse_policy(text),
            remote_layers=not _REMOTE_LAYERS.isdisjoint(layers),
            balanced=known.get("placementpolicy", "").lower() == "balanced",
            mount_options=given if is_ours and memory_of(given) <= LONGEST_OPTIONS else (),
            context_options=short(known.get("mountopts")),
            commands=short(known.get("postmountxfsopts")),
            file_system=short(parameters.get(_FILE_SYSTEM) or known.get("fstype")),
        )

    def policy_or(self, default: Policy | None) -> PolicyReading:
        """The policy to follow: its own, else the default, else what its layers can do."""
        if self.policy is not None:
            return self.policy
        if default is not None:
            return default
        return EVERYWHERE if self.remote_layers else LOCAL_ONLY
