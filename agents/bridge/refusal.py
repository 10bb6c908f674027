"""Why a credential is not accepted."""


class Refusal(Exception):
    """A credential that proves nothing. `reason` is a slug for the log; `detail` is for its sender, and quotes nothing.

    `ours`: not the sender's fault, there is nothing to check it with at the moment.
    """

    def __init__(self, reason: str, detail: str, *, ours: bool = False) -> None:
        super().__init__(detail)
        self.reason, self.detail, self.ours = reason, detail, ours
