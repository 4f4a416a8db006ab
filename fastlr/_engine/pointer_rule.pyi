LIMITS: dict[str, int]

def table_from_pointers(
    counts: dict[str, int],
    addresses: dict[str, int],
    decay_inside_update: bool,
    updates_state_while_reducing: bool,
) -> object: ...
def check_table(table: object, counts: dict[str, int], who: str) -> tuple[bool, bool]: ...
