# SPDX-License-Identifier: BSD-2-Clause
"""The requests of one run, with the rules that 2.6.33's ``ksym_trace_filter`` had for a second request."""

from __future__ import annotations

from collections.abc import Iterator

from ksym.errors import Place, RequestError, Span
from ksym.language.request import Mode, Request, Root, Step, Target
from ksym.language.tokens import printable, quote

Key = tuple[Root, tuple[Step, ...], int | None, int | None]


class RequestSet:
    """Requests in the order in which they came; a target is in it once.

    Two spellings of a target are one (``a->b`` and ``a.b``, with blanks or without), so that no
    register is spent twice.

        >>> requests = RequestSet()
        >>> requests.add(parse_request("pid_max:-w-"))
        >>> str(requests.add(parse_request("pid_max:rw-")))  # changed in place
        'pid_max:-w-'
        >>> [str(request) for request in requests]
        ['pid_max:rw-']
    """

    def __init__(self) -> None:
        self._requests: dict[Key, Request] = {}

    def __iter__(self) -> Iterator[Request]:
        return iter(tuple(self._requests.values()))

    def __len__(self) -> int:
        return len(self._requests)

    def __contains__(self, request: Request) -> bool:
        """Whether the target of ``request`` is watched, in whatever mode."""
        return key(request.target) in self._requests

    def add_new(self, request: Request) -> None:
        """Takes a request in whose target must be a new one.

        Raises:
            RequestError: The target is there already, whatever the mode and condition of either.
        """
        present = self._requests.setdefault(key(request.target), request)
        if present is request:
            return
        what, todo = f"cannot watch {request.target.text} twice", "keep one of them"
        if (present.mode, present.condition) == (request.mode, request.condition):
            raise RequestError(what, f"both requests are {quote(str(present))}", todo)
        if present.condition is not None and request.condition is not None:
            todo += ", or join their conditions with ||"
        raise RequestError(
            what, f"it is asked for as {quote(str(present))} and as {quote(str(request))}", todo
        )

    def add(self, request: Request) -> Request | None:
        """Takes a request in.

        Returns:
            The request whose place it took, as it named the same target with another mode or
            condition; None if the target is new.

        Raises:
            RequestError: The same target with the same mode and condition is there already.
        """
        assert request.mode is not Mode.CLEAR, "a request to clear is for clear()"
        place = key(request.target)
        present = self._requests.get(place)
        if present is not None and (present.mode, present.condition) == (request.mode, request.condition):
            why = f"{quote(request.target.text)} is watched as {request.mode} already"
            raise _error("add", request, why, "leave it out, or ask for another ACCESS")
        self._requests[place] = request  # a dict keeps the place of a key that it has
        return present

    def clear(self, request: Request) -> Request:
        """Takes out the target of ``request``, whatever the mode of either.

        Returns:
            The request that was there.

        Raises:
            RequestError: The target is not in the set.
        """
        present = self._requests.pop(key(request.target), None)
        if present is None:
            others = ", ".join(other.target.text for other in self._requests.values())
            todo = f"clear one of {others}" if others else "there is nothing to clear"
            raise _error("clear", request, f"{quote(request.target.text)} is not watched", todo)
        return present

    def clear_all(self) -> tuple[Request, ...]:
        """Takes everything out, and returns it."""
        requests = tuple(self)
        self._requests.clear()
        return requests


def key(target: Target) -> Key:
    """What two spellings of a target have in common."""
    return target.root, target.path, target.cpu, target.length


def _error(verb: str, request: Request, why: str, todo: str) -> RequestError:
    text = printable(request.text)
    place = Place(text, Span(0, len(request.target.text)))
    return RequestError(f"cannot {verb} request {quote(text)}", why, todo, place=place)
