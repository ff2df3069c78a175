"""The one kind of error that is the user's to mend; the command line prints it in one line and exits with 2."""


class UserError(ValueError):
    """A mistake in a recipe, a file or a flag, told as where, expected, found and cure.

    Args:
        where: the flag, key, file or file:line that is wrong.
        expected: what would have been right.
        found: what was there instead.
        cure: what to change, in the imperative.
    """

    def __init__(self, where: str, *, expected: str, found: str, cure: str) -> None:
        self.where, self.expected, self.found, self.cure = where, expected, found, cure
        super().__init__(f"{where}: expected {expected}, found {found}; {cure}".replace("\n", " "))
