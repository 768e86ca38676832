"""Errors that say in one clear sentence what is wrong, without a traceback: for a user to mend, or to be tried again."""


class UserError(Exception):
    """Something outside the program is wrong. The message names the thing and the remedy."""


class PrivilegeError(UserError):
    """Privileged state was asked for where it must not exist (any task outside training)."""


class EnvironmentFault(Exception):
    """What an environment stands on failed: a sandbox, a server, a machine too busy to judge. Raised by reset() and step().

    Not the student's doing and no result of its episode, which is over: play it again from reset. The message is one sentence.
    """
