# SPDX-License-Identifier: BSD-2-Clause
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksym.symbols import demangle as module
from ksym.symbols.demangle import candidates, decode, demangle, same_name, without_parameters

PLAIN = {
    "_ZN2ns7counterE": "ns::counter",
    "_ZL7counter": "counter",
    "_ZN2nsL7counterE": "ns::counter",
    "_ZN12_GLOBAL__N_11xE": "(anonymous namespace)::x",
    "_ZN1a12_GLOBAL__N_11xE": "a::(anonymous namespace)::x",
    "_ZZ3fooiE7counter": "foo::counter",
    "_ZZ4mainE1x": "main::x",
    "_ZZ4mainE1x_0": "main::x",
    "_ZZN2ns3fooEiPNS_1AEE1x": "ns::foo::x",
    "_ZSt4cout": "std::cout",
    "_ZN1AC1Ev": "A::A",
    "_ZN1AD2Ev": "A::~A",
    "_ZNK1A1gEv": "A::g",
    "_Z1fPFivE": "f",
}
RICH = {
    "_Z1fIiEvT_": "f<int>",
    "_ZN1AclEi": "A::operator()",
    "_ZlsRSoRK1A": "operator<<",
    "_ZN1AltERKS_": "A::operator<",
    "_ZN4TmplIiE5countE": "Tmpl<int>::count",
    "_ZTV1A": "vtable for A",
}


@pytest.mark.parametrize(("mangled", "name"), PLAIN.items())
def test_own_decoder(mangled: str, name: str) -> None:
    assert decode(mangled) == name


@pytest.mark.parametrize("mangled", RICH)
def test_own_decoder_knows_its_limits(mangled: str) -> None:
    assert decode(mangled) is None


@pytest.mark.parametrize(("mangled", "name"), (PLAIN | RICH).items())
def test_with_the_runtime(mangled: str, name: str) -> None:
    if module._runtime() is None:
        pytest.skip("libstdc++ is not installed")
    assert demangle(mangled) == name


def test_what_is_not_mangled() -> None:
    assert demangle("counter") is None
    assert demangle("_Zz") is None
    assert demangle("_Z" + "1a" * 5000) is None
    assert demangle("_Z3foov.cold") == "foo.cold"


@given(st.text(alphabet="_ZNLSt0123456789aEIKCDPvi", max_size=40))
def test_decoder_survives(text: str) -> None:
    result = decode("_Z" + text)
    assert result is None or result


@given(st.lists(st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True), min_size=1, max_size=4))
def test_candidates_read_back(parts: list[str]) -> None:
    name = "::".join(parts)
    for form in candidates(name):
        assert (decode(form.decode()) or "").removeprefix("(anonymous namespace)::") == name


def test_candidates_only_for_names() -> None:
    assert candidates("ns::operator+") == []
    assert candidates("Tmpl<int>::count") == []
    assert b"_ZN12_GLOBAL__N_11xE" in candidates("(anonymous namespace)::x")
    assert b"_ZSt4cout" in candidates("std::cout")


def test_parameters_go() -> None:
    assert without_parameters("void ns::f<int>(int, char const*) const") == "ns::f<int>"
    assert without_parameters("(anonymous namespace)::f(int)::x") == "(anonymous namespace)::f::x"
    assert without_parameters("std::vector<int, long> ns::g<a>(void (*)(int))") == "ns::g<a>"
    assert without_parameters("A::operator()(int)") == "A::operator()"


def test_same_name() -> None:
    assert same_name("_ZN1a12_GLOBAL__N_11xE", "a::x")
    assert same_name("_ZZ3fooiE7counter", "counter")
    assert same_name("_ZZ3fooiE7counter", "foo::counter")
    assert same_name("_ZZ3fooiE7counter", "foo(int)::counter")
    assert not same_name("_ZN2ns7counterE", "counter")


def bomb(doublings: int) -> str:
    """``A<A<A<int, int>, A<int, int> >, ...>``: each part has two of the one before."""
    digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    parts = [f"S_IS{digits[number]}_S{digits[number]}_E" for number in range(doublings)]
    return "_Z1f1AIiiE" + "".join(parts)


def test_names_that_stand_for_far_longer_ones_are_left_alone() -> None:
    small = bomb(4)
    assert demangle(small) in ("f", None)
    for doublings in (16, 22):  # of 2 and 142 MB
        name = bomb(doublings)
        assert len(name) < 400
        assert demangle(name) is None
    assert demangle(f"_Z1fIJ{'i' * 300}EEv" + "DpFv" * 8 + "T_" + "E" * 8) is None
    # Shorter than that, but the text would still fill screens.
    assert demangle(bomb(13)) is None


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("_ZNSt6vectorIiSaIiEE3endEv", "std::vector<int, std::allocator<int> >::end"),
        ("_Z1fIJiiiEEvDpT_", "f<int, int, int>"),
        ("_ZN1a1bERKS_S1_S1_S1_S1_S1_S1_S1_S1_S1_S1_S1_S1_S1_S1_S1_S1_S1_S1_S1_S1_S1_S1_S1_S1_", "a::b"),
        ("_ZN11S_S_S_S_S_T1bE", "S_S_S_S_S_T::b"),
    ],
)
def test_names_with_many_substitutions_are_read(name: str, text: str) -> None:
    if module._runtime() is None:
        pytest.skip("no C++ runtime")
    assert demangle(name) == text
