"""What is true and what follows from it. Pure: no I/O, tasks, clock or logging may live here."""
