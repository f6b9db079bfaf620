"""One sentence for each way in which the Hub can refuse, from the errors of ``huggingface_hub`` and its HTTP library.

Told apart by class name, so that neither is imported here, and it does not matter which HTTP library it is.
"""

from __future__ import annotations

from frolic.errors import AccessError, FrolicError, ModelNotFoundError, NetworkError
from frolic.io.cache import cached
from frolic.io.hub_names import HubName, endpoint

_LIBRARIES = ("huggingface_hub", "httpx", "httpcore", "requests", "urllib3", "filelock")


def explained(error: Exception, name: HubName) -> FrolicError:
    """The error of ours that says what ``error`` means for someone who wants ``name``."""
    if isinstance(error, FrolicError):
        return error
    kinds = {kind.__name__ for kind in type(error).__mro__}
    status = getattr(getattr(error, "response", None), "status_code", 0)
    if "OfflineModeIsEnabled" in kinds:
        return NetworkError(unreachable(name, "this session is offline (HF_HUB_OFFLINE is set)"))
    if "GatedRepoError" in kinds:
        return AccessError(
            f"The owner of {name.repo} asks you to accept terms: do so on its page ({address(name)}), log in with "
            "`hf auth login` or set HF_TOKEN, and run the same command again."
        )
    if "RevisionNotFoundError" in kinds:
        return ModelNotFoundError(f"{name.repo} has no revision {name.ref!r}; give a branch, a tag or a commit of it.")
    if "RepositoryNotFoundError" in kinds:
        return ModelNotFoundError(
            f"There is no folder {name.repo!r} here and no model of that name on the Hub that you may see; check the "
            "name, or log in with `hf auth login` if it is private."
        )
    if status == 404:
        return ModelNotFoundError(f"The Hub has a file of {name} no more; run the same command again.")
    if status in (401, 403):
        return AccessError(
            f"The Hub refuses {name} to you ({status}); log in anew with `hf auth login`, or ask its owner for access "
            f"({address(name)})."
        )
    if status:
        busy = "it has too many requests from here" if status == 429 else f"it answered with error {status}"
        return NetworkError(f"{name} cannot be fetched from the Hub now: {busy}; run the same command again later.")
    if kinds & {"TimeoutException", "TimeoutError"}:
        return NetworkError(unreachable(name, "the Hub does not answer in time"))
    if kinds & {"TransportError", "ConnectionError"}:
        return NetworkError(unreachable(name, f"the Hub cannot be reached ({_short(error)})"))
    return NetworkError(f"{name} cannot be fetched: {type(error).__name__}: {_short(error)}.")


def foreign(error: Exception) -> bool:
    """Whether the libraries or the system raised ``error``, or a Hub made them by what it answered; other errors are
    our own mistakes, and must not look like the network's."""
    if isinstance(error, FrolicError | OSError | ValueError | KeyError):
        return True
    return any(kind.__module__.startswith(_LIBRARIES) for kind in type(error).__mro__)


def unreachable(name: HubName, why: str) -> str:
    """What to do where the network is missing: ``why`` is the reason, without a full stop."""
    if cached(name) is not None:
        return (
            f"{name} is on this machine, and the Hub cannot be asked for more of it: {why}; run the same command again "
            "where there is a network."
        )
    return (
        f"{name} is not wholly on this machine and {why}; where there is a network, run `frolic models pull {name}`, "
        "and if that is another machine, copy its cache folder (HF_HUB_CACHE) here."
    )


def passing(error: Exception) -> bool:
    """Whether trying again soon may help: the connection broke or stalled, or the Hub is busy."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    status = getattr(getattr(error, "response", None), "status_code", 0)
    return status in (408, 429, 500, 502, 503, 504) or (bool(kinds & {"TransportError"}) and "ProxyError" not in kinds)


def address(name: HubName) -> str:
    """The repository's page."""
    from huggingface_hub.constants import ENDPOINT

    return f"{(endpoint() or ENDPOINT).rstrip('/')}/{name.repo}"


def _short(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")[:200]
