"""Checks of the service, the credentials, and the user's standing in the competition."""

import os
from collections.abc import Iterator
from datetime import UTC, datetime

from pipelines import command
from pipelines.kaggle import service
from pipelines.kaggle.credentials import Credential, find_credential, missing_because, steps_to_credential
from pipelines.kaggle.failures import CODE_ONLY, WITHOUT_KAGGLE, where_they_are
from pipelines.settings.schema import Settings
from pipelines.system.errors import TryAgainLater, UserError
from pipelines.system.network import offline_hint, proxy_of
from pipelines.tools.doctor_checks import Check, Verdict

ASKED = ("account", "competition", "rules", "deadline", "submissions")  # the checks that Kaggle answers
STALL_SECONDS = 30.0  # at most: these answers are short


class _NotAsked(Exception):
    """The reason why Kaggle is not asked the remaining questions."""


def check_kaggle(settings: Settings, client: bool) -> Iterator[Check]:
    """Yield the checks of service, credentials and competition.  client: whether Kaggle's client can be loaded."""
    seen = set()
    try:
        for check in _checks(settings, client):
            seen.add(check.name)
            yield check
    except _NotAsked as reason:
        first, *others = [name for name in ASKED if name not in seen]
        neither = f"; nor are {', '.join(others)}" if others else ""
        yield Check(first, "-", f"not asked: {reason}{neither}")


def _checks(settings: Settings, client: bool) -> Iterator[Check]:
    needed, slug = settings.competition.source == "kaggle", settings.competition.slug
    bad: Verdict = "fails" if needed else "!"
    place = _service()
    yield place
    try:
        credential = find_credential(os.environ)
        notes = credential.warnings if credential else missing_because(os.environ)
    except UserError as error:
        yield Check("credentials", bad, "not usable", (str(error),))
        raise _NotAsked("no usable credentials") from None
    if not credential:
        rules = f"Accept the rules of {settings.name}: {service.RULES_PAGE.format(slug=slug)}"
        if needed:
            yield Check("credentials", "missing", "none for Kaggle", (*notes, *steps_to_credential(os.environ), rules))
            raise _NotAsked("no credentials")
        yield Check("credentials", "-", f"none for Kaggle; {settings.name} needs none")
        return
    yield Check("credentials", "!" if notes else "ok", str(credential), notes)
    if place.fails or not client:
        raise _NotAsked("see service" if place.fails else "the client cannot be loaded")
    with service.Kaggle(slug, min(settings.kaggle.stall_seconds, STALL_SECONDS)) as kaggle:
        yield from _answers(kaggle, settings, credential, bad)


def _answers(kaggle: service.Kaggle, settings: Settings, credential: Credential, bad: Verdict) -> Iterator[Check]:
    """Yield the checks of the account, the competition and the user's part in it."""
    question, reason = "account", "not logged in"
    try:
        if credential.kind == "username and key":  # the client accepts any without asking Kaggle
            yield Check("account", "-", f"{credential.username}; Kaggle checks the key with the next question")
        else:
            yield Check("account", "ok", kaggle.username() or "the name is not known")
        if bad == "!" and not service.is_standin():
            raise _NotAsked(f"{settings.name} is not at Kaggle")
        question, reason = "competition", "no answer about the competition"
        competition = kaggle.competition()
        yield Check("competition", "ok", competition.title)
        if competition.entered:
            yield Check("rules", "ok", "accepted")
        else:
            found = f"not accepted: {service.RULES_PAGE.format(slug=kaggle.slug)}"
            yield Check("rules", bad, found, (str(service.not_entered(kaggle.slug)),))
        yield Check("deadline", "ok", _deadline(competition.deadline))
        if competition.submissions_disabled:
            step = "Kaggle accepts no submissions to this competition. make score may still score one here."
            yield Check("submissions", "!", "Kaggle accepts none", (step,))
            return
        if competition.code_only and settings.competition.takes == "file":
            yield Check("submissions", "!", "code only, no files", (CODE_ONLY,))
            return
        if not competition.entered:
            raise _NotAsked("the rules are not accepted")
        question = "submissions"
        yield _submissions_left(kaggle.limits(), competition.daily_submissions, bad)
    except (UserError, RuntimeError) as error:
        yield _failed(question, error, bad, credential)
        raise _NotAsked(reason) from None


def _deadline(text: str) -> str:
    if not text:
        return "not known"
    ends = datetime.fromisoformat(text)
    shown = f"{ends.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    return f"open until {shown}" if ends > datetime.now(UTC) else f"closed since {shown}: late submissions only"


def _submissions_left(limits: service.Limits, daily: int, bad: Verdict) -> Check:
    found = f"{limits.left} left now; {limits.today} sent today, {limits.total} in all"
    if not limits.spent:
        return Check("submissions", "ok", found if limits.left else f"none sent yet; {daily} a day are allowed")
    step = "All submissions that this competition allows are used: no more can be sent."
    if not limits.limited_by_total:
        wait = command.duration(service.seconds_to_new_day())
        step = f"Today's submissions are used. Kaggle allows new ones from midnight UTC, in {wait}."
    return Check("submissions", bad, found, (step,), later=not limits.limited_by_total)


def _failed(name: str, error: Exception, bad: Verdict, credential: Credential) -> Check:
    """Return the check `name`, which ended in `error`."""
    if not isinstance(error, UserError):
        kind = (str(error).strip().splitlines() or [""])[-1].partition(":")[0]  # the rest may contain a credential
        step = "Try Kaggle's client alone: kaggle competitions list. If that works, report this as a bug here."
        return Check(name, bad, f"Kaggle's client failed with an unknown error ({kind[:60]})", (step,))
    found = str(error).partition(". ")[0].removesuffix(".")
    later = isinstance(error, TryAgainLater)
    step = str(error).replace(where_they_are(), "")
    if name == "account" and offline_hint(step):
        step += f" {WITHOUT_KAGGLE}"
    if not later and "credentials" in found:
        step += f" Kaggle refused the {credential}."
    if later and not service.is_standin() and (proxy := _proxy("https")):
        step += f" The variable https_proxy sends all calls to {proxy}: is this right?"
    return Check(name, bad, found, (step,), later)


def _service() -> Check:
    """Return the check of the service that the client will talk to."""
    try:
        service.check_environment(os.environ)
    except UserError as error:
        return Check("service", "fails", "KAGGLE_API_ENVIRONMENT leads to another service", (str(error),))
    if not service.is_standin():
        proxy = _proxy("https")
        return Check("service", "ok", "Kaggle" + (f", through the proxy {proxy}" if proxy else ""))
    proxy = _proxy("http")
    if not proxy:
        step = "Set http_proxy to the address that make kaggle-standin printed, unless a server listens on port 80."
        return Check("service", "!", "a stand-in at localhost:80, as http_proxy is not set", (step,))
    if _bypassed("localhost"):
        step = "Unset no_proxy and NO_PROXY: with them the client asks localhost:80 instead of the stand-in."
        return Check("service", "fails", f"no_proxy hides the stand-in at {proxy}", (step,))
    return Check("service", "ok", f"the stand-in at {proxy}, not Kaggle")


def _proxy(scheme: str) -> str:
    """Return host and port of the proxy for `scheme`, without user name and password; empty: none."""
    proxy = proxy_of(f"{scheme}:")
    return proxy.shown if proxy else ""


def _bypassed(host: str) -> bool:
    try:
        from requests.utils import should_bypass_proxies
    except ImportError:  # then the client cannot be loaded either
        return False
    return bool(should_bypass_proxies(f"http://{host}/", no_proxy=None))
