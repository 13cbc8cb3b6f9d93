# SPDX-License-Identifier: BSD-2-Clause
"""The reader on the running kernel's own BTF, with bpftool as oracle where there is one."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from ksym.symbols.btf import DIRECTORY, Btf
from ksym.symbols.path import find_member, member_names
from ksym.symbols.types import Array, Enum, Field, Integer, Pointer, Struct, resolve

VMLINUX = Path(DIRECTORY) / "vmlinux"
pytestmark = pytest.mark.skipif(not VMLINUX.exists(), reason="this kernel has no BTF (CONFIG_DEBUG_INFO_BTF)")
Rows = dict[int, dict[str, Any]]
KINDS = {"STRUCT": "struct", "UNION": "union"}


@pytest.fixture(scope="module")
def btf() -> Btf:
    return Btf.vmlinux()


@pytest.fixture(scope="module")
def oracle() -> Rows:
    tool = shutil.which("bpftool") or shutil.which("bpftool", path="/usr/sbin:/sbin")
    if tool is None:
        pytest.skip("bpftool is not installed")
    done = subprocess.run([tool, "-j", "btf", "dump", "file", VMLINUX], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"bpftool cannot read this kernel's BTF: {done.stderr.decode().strip()}")
    return {row["id"]: row for row in json.loads(done.stdout)["types"]}


def test_task_struct(btf: Btf) -> None:
    task = btf.find("struct", "task_struct")
    assert isinstance(task, Struct)
    comm = find_member(task, "comm")
    assert comm
    assert isinstance(comm.type, Array)
    assert (comm.type.name, comm.type.count) == ("char[16]", 16)
    parent = find_member(task, "real_parent")
    assert parent
    assert isinstance(parent.type, Pointer)
    assert parent.type.target == task
    assert 0 < comm.offset < task.size


@pytest.mark.parametrize(
    "name", ["task_struct", "signal_struct", "mm_struct", "file", "inode", "dentry", "page"]
)
def test_offsets_are_those_of_the_types(btf: Btf, name: str) -> None:
    """Bit fields apart, whose unit may begin before them; members of unnamed structs and unions are among these."""
    kind = btf.find("struct", name)
    assert isinstance(kind, Struct)
    members = [find_member(kind, member) for member in member_names(kind)]
    whole = [member for member in members if member and not member.bits]
    assert len(whole) > 3
    assert {each.name: btf.offset(name, each.name) for each in whole} == {
        each.name: each.offset for each in whole
    }


def test_offset_of_a_nested_member(btf: Btf) -> None:
    path = find_member(btf.find("struct", "file"), "f_path")  # type: ignore[arg-type]
    assert path
    dentry = find_member(resolve(path.type), "dentry")  # type: ignore[arg-type]
    assert dentry
    assert btf.offset("file", "f_path", "dentry") == path.offset + dentry.offset


def test_offset_of_what_is_not_there(btf: Btf) -> None:
    assert btf.offset("file", "no_such_member") is None
    assert btf.offset("file", "f_path", "no_such_member") is None
    assert btf.offset("file", "f_inode", "i_ino") is None, "a pointer is not what it leads to"
    assert btf.offset("no_such_struct", "x") is None


def test_it_is_read_once_while_it_is_in_use(btf: Btf) -> None:
    assert Btf.vmlinux() is btf


def test_kernel_param_has_the_layout_of_its_section(btf: Btf) -> None:
    kind = btf.find("struct", "kernel_param")
    assert isinstance(kind, Struct)
    assert kind.size == 40
    assert [find_member(kind, name).offset for name in ("name", "mod", "ops", "perm", "arg")] == [  # type: ignore[union-attr]
        0, 8, 16, 24, 32,
    ]  # fmt: skip


def test_common_types(btf: Btf) -> None:
    u32 = btf.find(None, "u32")
    assert u32
    target = resolve(u32)
    assert isinstance(target, Integer)
    assert (target.name, target.size, target.signed) == ("unsigned int", 4, False)
    assert (btf.find(None, "unsigned long") or u32).size == 8
    kind = btf.find("enum", "pid_type")
    assert isinstance(kind, Enum)
    assert ("PIDTYPE_TGID", 1) in kind.enumerators
    assert btf.find(None, "no_such_type") is None
    assert btf.function("schedule")
    assert btf.function("task_struct") is None


def test_per_cpu_variables(btf: Btf) -> None:
    found = btf.variable("runqueues")
    if found is None:
        pytest.skip("this kernel's BTF has no per-CPU variables")
    assert (found.type.name, found.size) == ("struct rq", found.type.size)
    assert found.section == ".data..percpu"
    assert btf.variable("schedule") is None


def test_the_index_takes_no_noticeable_time() -> None:
    data = VMLINUX.read_bytes()
    start = time.process_time()
    last = Btf(data)._index.end_id
    # 11 ms for 126,000 types on the machine it was written on; the bound leaves room for slow and busy ones.
    assert time.process_time() - start < max(0.3, last * 3e-6)


def test_every_type_can_be_made(btf: Btf, oracle: Rows) -> None:
    assert btf._index.end_id == 1 + max(oracle)
    for number, row in oracle.items():
        if row["kind"] in ("DATASEC", "FUNC", "VAR", "DECL_TAG"):
            continue
        made = btf.type_by_id(number)
        if row["kind"] in ("INT", "STRUCT", "UNION", "ENUM", "ENUM64", "FLOAT"):
            assert made.size == row["size"], row
        if row["kind"] in ("STRUCT", "UNION", "ENUM", "ENUM64", "TYPEDEF"):
            assert made.name.endswith("{...}" if row["name"] == "(anon)" else row["name"]), row
        if row["kind"] in ("ENUM", "ENUM64") and isinstance(made, Enum):
            # bpftool 7.1 extends the sign of unsigned values in JSON.
            limit = 1 << (32 if row["kind"] == "ENUM" else 64)
            pairs = [(each["name"], each["val"] % limit) for each in row["values"]]
            assert [(name, value % limit) for name, value in made.enumerators] == pairs, row
            assert made.signed == (row["encoding"] == "SIGNED")
            assert made.signed or all(value >= 0 for _, value in made.enumerators)


def check_members(btf: Btf, oracle: Rows, number: int) -> None:
    row, made = oracle[number], btf.type_by_id(number)
    assert isinstance(made, Struct)
    assert made.size == row["size"]
    assert len(made.fields) == len(row["members"])
    for field, member in zip(made.fields, row["members"], strict=True):
        assert field.name == ("" if member["name"] == "(anon)" else member["name"])
        assert bit_offset(field) == member["bits_offset"], (row["name"], field)
        assert (field.bits[1] if field.bits else 0) == member.get("bitfield_size", 0), (row["name"], field)
        assert field.type is btf.type_by_id(member["type_id"])


def bit_offset(field: Field) -> int:
    return 8 * field.offset + (field.bits[0] if field.bits else 0)


def test_members_of_three_hundred_random_structs(btf: Btf, oracle: Rows) -> None:
    numbers = [number for number, row in oracle.items() if row["kind"] in KINDS]
    for number in random.Random(20090301).sample(numbers, min(300, len(numbers))):
        check_members(btf, oracle, number)


@pytest.mark.parametrize("name", ["task_struct", "net", "kernel_param", "sk_buff", "tcp_sock", "rq", "page"])
def test_members_of_well_known_structs(btf: Btf, oracle: Rows, name: str) -> None:
    numbers = [n for n, row in oracle.items() if row["kind"] == "STRUCT" and row["name"] == name]
    if not numbers:
        pytest.skip(f"this kernel has no struct {name}")
    assert btf.find("struct", name) is btf.type_by_id(numbers[0])
    check_members(btf, oracle, numbers[0])


def test_bit_fields_in_unnamed_members(btf: Btf, oracle: Rows) -> None:
    buffer = btf.find("struct", "sk_buff")
    if not isinstance(buffer, Struct):
        pytest.skip("this kernel has no network")

    def search(number: int, base: int) -> dict[str, tuple[int, int]]:
        """Place and width in bits of each member that sk_buff seems to have itself."""
        found: dict[str, tuple[int, int]] = {}
        for member in oracle[number]["members"]:
            place = base + member["bits_offset"]
            if member["name"] == "(anon)":
                found |= search(member["type_id"], place)
            else:
                found[member["name"]] = place, member.get("bitfield_size", 0)
        return found

    number = next(n for n, row in oracle.items() if row["kind"] == "STRUCT" and row["name"] == "sk_buff")
    expected = search(number, 0)
    assert sum(width > 0 for _, width in expected.values()) > 10
    for name, (place, width) in expected.items():
        field = find_member(buffer, name)
        assert field, name
        assert (bit_offset(field), field.bits[1] if field.bits else 0) == (place, width), name


def test_names_find_what_they_name(btf: Btf, oracle: Rows) -> None:
    named = [row for row in oracle.values() if row["kind"] in KINDS and row["name"] != "(anon)"]
    for row in random.Random(20090302).sample(named, min(100, len(named))):
        first = min(o["id"] for o in named if (o["kind"], o["name"]) == (row["kind"], row["name"]))
        assert btf.find(KINDS[row["kind"]], row["name"]) is btf.type_by_id(first)
    for kind, look in (("FUNC", btf.function), ("VAR", btf.variable)):
        rows = [row for row in oracle.values() if row["kind"] == kind]
        for row in random.Random(20090303).sample(rows, min(30, len(rows))):
            assert look(row["name"]) is not None, row


def test_names_of_variables_are_those_that_can_be_found() -> None:
    btf = Btf.vmlinux()
    names = list(btf.variable_names())
    assert "runqueues" in names or not names
    assert all(btf.variable(name) is not None for name in names[:20])
