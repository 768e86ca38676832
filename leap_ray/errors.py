"""Errors that are a user's to mend: one clear sentence, no traceback, a non-zero exit."""


class UserError(Exception):
    """Something outside the program is wrong. The message names the thing and the remedy."""


class PrivilegeError(UserError):
    """Privileged state was asked for where it must not exist (any task outside training)."""
