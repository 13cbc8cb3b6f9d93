# SPDX-License-Identifier: BSD-2-Clause
"""``ksym_trace_filter``: which requests are planted, and what becomes of them when somebody writes.

A write is done as a whole or not at all. New requests are planted beside those that they replace; where registers are
short, they take these over; where that cannot be done, the old ones are given up first, and planted again if that did
not help either.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence

from ksym.errors import KsymError, NoRegisters, NotTakenOver, RequestError, Span
from ksym.language.parser import parse_request
from ksym.language.request import Mode, Request, TaskRoot, UserSymbol
from ksym.language.request_set import Key, RequestSet, key
from ksym.language.tokens import printable
from ksym.tracing.planted import How, Planted

Plant = Callable[[Request, How, Planted | None], Planted]
Told = Callable[[Request, str], None]


class Filters:
    """The requests of an instance.

    Args:
        how: How they are planted.
        told: Told of what is found to be wrong with one that is planted.
        leaving: Told of what is about to be given up: what it caught can still be taken.
        plant: What plants one.
    """

    def __init__(
        self, how: How, told: Told, leaving: Callable[[Planted], None], plant: Plant = Planted
    ) -> None:
        self._how, self._told, self._leaving, self._plant = how, told, leaving, plant
        self._requests = RequestSet()
        self._planted: dict[Request, Planted] = {}
        self._on = True

    @property
    def planted(self) -> list[Planted]:
        """What is planted, in the order in which it came."""
        return [self._planted[request] for request in self._requests]

    def text(self) -> str:
        """The requests, newest first, a line each; blanks of any kind are told as plain ones."""
        return "".join(f"{printable(str(request))}\n" for request in reversed(list(self._requests)))

    def write(self, text: str, writer: int = 0) -> None:
        """Do what the lines ask for, all of it or nothing.

        Args:
            text: The lines.
            writer: The thread that ``task(self)`` stands for; 0: one of another pid namespace.

        Raises:
            KsymError: one of them cannot be done.
        """
        wanted = RequestSet()
        for request in self._requests:
            wanted.add(request)
        lines = text.split("\n")
        if len(lines) > 1:
            # An empty line among others says nothing; alone it is the empty write, which clears all.
            lines = [line for line in lines if line.strip()] or [""]
        for line in lines:
            request = _made_sure(parse_request(line, seed=True), writer)
            if request.clears_all:
                wanted.clear_all()
            elif request.mode is Mode.CLEAR:
                wanted.clear(request)
            else:
                wanted.add(request)
        self._change(wanted, self._how)

    def clear(self) -> None:
        """Give everything back."""
        self._change(RequestSet(), self._how)

    def replant(self, how: How) -> None:
        """Plant all anew, in another way.

        Raises:
            KsymError: it cannot be done; all stays as it was.
        """
        self._change(self._requests, how)

    def switch(self, on: bool) -> None:
        """Whether accesses are seen; the registers stay taken."""
        if on != self._on:
            self._on = on
            for each in self.planted:
                each.enable() if on else each.disable()

    def _change(self, wanted: RequestSet, how: How) -> None:
        stays = {request for request in wanted if how == self._how and request in self._planted}
        news = [request for request in wanted if request not in stays]
        olds = [request for request in self._requests if request not in stays]
        try:
            fresh = self._plant_all(news, how)
        except NoRegisters:
            if not olds:
                raise
            fresh, hits, gone = self._plant_instead(news, how, olds)
            for planted in fresh:
                if key(planted.request.target) in hits:
                    self._told(
                        planted.request, "no register was free beside it: for a moment nothing was seen"
                    )
        else:
            hits, gone = self._stop(olds)
        for planted in fresh:
            self._take_up(planted, hits.get(key(planted.request.target), 0))
        # Last, as it takes the kernel a while, in which the new ones see accesses already.
        self._give_up(gone)
        self._requests, self._how = wanted, how

    def _plant_instead(
        self, news: Sequence[Request], how: How, olds: Sequence[Request]
    ) -> tuple[list[Planted], dict[Key, int], list[Planted]]:
        """Plant with the registers of what is replaced; returns what `_stop` does, too.

        Each takes over those of its old one. Where that cannot be done, or where one may have some that another needs,
        all old ones are given up: somebody else may get their registers then.
        """
        try:
            fresh = self._plant_all(news, how, {key(old.target): self._planted[old] for old in olds})
        except NoRegisters as error:
            # One for one, it had all that the old one has. With more, one that only goes has registers to give, and
            # so has one that needs fewer than before.
            one_for_one = [key(old.target) for old in olds] == [key(new.target) for new in news]
            if len(olds) == 1 and one_for_one and not isinstance(error, NotTakenOver):
                raise
            hits, gone = self._stop(olds)
            self._give_up(gone)
            try:
                return self._plant_all(news, how), hits, []
            except BaseException:
                self._restore(olds, hits)
                raise
        return fresh, *self._stop(olds)

    def _stop(self, requests: Sequence[Request]) -> tuple[dict[Key, int], list[Planted]]:
        """End watches; returns the hits up to then, by target, and what still has their registers."""
        stopped = [self._planted.pop(request) for request in requests]
        for planted in stopped:
            planted.disable()
        return {key(planted.request.target): planted.hits for planted in stopped}, stopped

    def _give_up(self, stopped: Sequence[Planted]) -> None:
        """Take what stopped watches have caught, and give their registers back."""
        for planted in stopped:
            self._leaving(planted)
            planted.close()

    def _take_up(self, planted: Planted, hits: int) -> None:
        request = planted.request
        self._planted[request] = planted
        planted.follow(hits, lambda note: self._told(request, note))
        if self._on:
            planted.enable()

    def _plant_all(
        self, requests: Sequence[Request], how: How, instead: Mapping[Key, Planted] | None = None
    ) -> list[Planted]:
        done: list[Planted] = []
        try:
            for request in requests:
                old = instead.get(key(request.target)) if instead else None
                done.append(self._plant(request, how, old))
        except BaseException as error:
            if isinstance(error, KsymError) and error.place is None:
                error.place = request.place(Span(0, len(request.target.text)))
            for planted in done:
                planted.close()
            raise
        return done

    def _restore(self, requests: Sequence[Request], hits: dict[Key, int]) -> None:
        """Plant anew what was given up in vain."""
        for request in requests:
            try:
                planted = self._plant(request, self._how, None)
            except (KsymError, OSError) as error:
                # Somebody else took the registers in between.
                why = error.why if isinstance(error, KsymError) else os.strerror(error.errno or 0)
                self._requests.clear(request)
                self._told(request, f"it had to give way and could not be planted again: {why}")
            else:
                self._take_up(planted, hits[key(request.target)])


def _made_sure(request: Request, writer: int) -> Request:
    """The request with ``task(self)`` as the writer's task, by number: there is no other self to read it later.

    Raises:
        RequestError: no watch of this directory can be what it means.
    """
    root, text = request.target.root, request.text
    if isinstance(root, UserSymbol):
        raise RequestError(
            f"cannot watch {request.target.text}", "it is a program's variable, and the directory knows no process",
            f"use `ksym trace -p PID {request.target.text}`", place=request.place(root.span),
        )  # fmt: skip
    if not isinstance(root, TaskRoot) or root.pid is not None:
        return request
    if not writer:
        raise RequestError(
            f"cannot watch {request.target.text}", "who writes it is in another pid namespace",
            "write task(PID) with its number in the namespace of `ksym mount`", place=request.place(root.span),
        )  # fmt: skip
    return parse_request(f"{text[: root.span.start]}task({writer}){text[root.span.end :]}", seed=True)
