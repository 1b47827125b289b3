"""Can a bucket be used as it is: reached, listed, written, and spelt as it is asked."""

from __future__ import annotations

from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

from symcache.doctor.finding import Finding, Rating
from symcache.errors import ConfigError, Forbidden, UpstreamError, UpstreamUnavailable
from symcache.stores.bucket.objects import Bucket
from symcache.stores.bucket.store import object_name
from symcache.stores.disk import find_entry
from symcache.upkeep.bucket import is_own, parse_object

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from symcache.config import Config
    from symcache.stores.bucket.objects import ObjectInfo

__all__ = ["examine_bucket"]


_FIRST_OBJECTS = 1000  # one page


def examine_bucket(url: str, config: Config) -> Iterator[Finding]:
    """Yield what is found of the bucket *url*; nothing is changed there, but one to be filled gets ``pingme.txt``."""
    say = partial(Finding, "store", url)
    try:
        bucket = Bucket(url, find_entry(url, config.bucket), config.network)
    except ConfigError as error:
        yield say("bucket", Rating.WRONG, error.problem, "correct it, or take the bucket out of the symbol path")
        return
    try:
        first = list(islice(bucket.list(), _FIRST_OBJECTS))
    except Forbidden:
        advice = "each file that it lacks is an error then; give the right to list it (s3:ListBucket)"
        yield say("listing", Rating.WARNING, "403: it may not be listed", advice)
    except UpstreamError as error:
        yield say("reach", Rating.WRONG, error.problem, _advice(error))
        return
    else:
        yield say("listing", Rating.FINE, "can be reached and listed")
        yield from _examine_names(bucket, first, say)
    yield from _examine_writing(bucket, say)


def _advice(error: UpstreamError) -> str:
    if isinstance(error, UpstreamUnavailable):
        return "is it up, and `endpoint` of [[bucket]] right? A proxy is named by network.proxy alone"
    return "are name, region and endpoint right, and the credentials where their own tools look for them?"


def _examine_names(bucket: Bucket, first: Sequence[ObjectInfo], say: partial[Finding]) -> Iterator[Finding]:
    found = [(info, parse_object(info)) for info in first if not is_own(info.name)]
    files = [file for _, file in found if file is not None]
    others = [info.name for info, file in found if file is None]
    text = f"{len(files)} files{' among the first objects' if len(first) == _FIRST_OBJECTS else ''}"
    if others:
        shown = ", ".join(others[:3]) + (" …" if len(others) > 3 else "")
        yield say("contents", Rating.WARNING, f"{text}, and {len(others)} other objects: {shown}", "give it a prefix")
    else:
        yield say("contents", Rating.FINE, text)
    misspelt = [file for file in files if object_name(bucket, file.key, file.form) != file.info.name]
    if misspelt:
        text = f"{len(misspelt)} of {len(files)} names are spelt as nobody asks, such as {misspelt[0].info.name}"
        yield say(
            "letter case", Rating.WRONG, text, "say letter_case = 'lower' in [[bucket]], or 'given' if it says so"
        )


def _examine_writing(bucket: Bucket, say: partial[Finding]) -> Iterator[Finding]:
    if bucket.entry is not None and bucket.entry.read_only:
        yield say("writing", Rating.FINE, "read_only: nothing is put there")
        return
    try:
        keeps = bucket.keeps_names()
    except UpstreamError as error:
        advice = "fine for one that is only read: say read_only = true in [[bucket]]"
        yield say("writing", Rating.WARNING, f"not possible: {error.problem}", advice)
        return
    if keeps:
        yield say("writing", Rating.FINE, "works; a name is taken once, and pingme.txt is there")
    else:
        advice = "each file is looked for before it is put there, and two machines may put it there at once"
        yield say("writing", Rating.WARNING, "works; the server replaces objects although told not to", advice)
