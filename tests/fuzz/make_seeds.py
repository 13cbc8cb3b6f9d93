# SPDX-License-Identifier: BSD-2-Clause
"""Make the seeds anew, of real inputs: ``python -m fuzz.make_seeds``.

Recordings of made-up rings, and perf's own of a small program; this kernel's BTF and symbols, cut down; programs by
gcc. What cannot be had on a machine is left as it is.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from fuzz import targets
from ksym.errors import KsymError
from ksym.language.parser import parse_request
from ksym.linux import fuse
from ksym.program.layout import Hit
from ksym.recording.zstd import Compressor, ZstdMissing
from ksym.symbols.btf import Btf
from ksym.symbols.ctext import parse_type
from ksym.symbols.types import Encoding, Enum, Field, Integer, Pointer, Struct
from ksym.symbols.variable import Space, Variable
from ksym.watch.plan import make_plan
from support.recordings import FakeArmed, Recorded
from synthetic import perf
from synthetic.btf import BtfWriter
from synthetic.elf import Image, Sym

_CODE = {0x401000: ("W", 4, False), 0x401010: ("R", 4, False), 0xFFFFFFFF81000010: ("?", 0, False)}
_PID = 5_000_001
_REQUESTS = (
    "pid_max", "ext4:ext4_mount_count:-w-", "init_net.ipv4.ip_id_key:rw- if new != 0", "avenrun[1]:r--",
    "task(1234).signal->rlim[7].rlim_cur:-w-", "task(self).comm", "*(u32 *)0xffffffff82c0ffee", "0xffffffff82c0ffee/4",
    "runqueues.nr_running@cpu1", "./prog:counter:rw-", "libc.so.6:environ", "./prog:cfg.limits[2]", "do_exit:--x",
    "*:---", "0", "a::b:rw-", "./p:ns::name", "*(struct foo *)(a.b):rw-",
)  # fmt: skip
_CONDITIONS = (
    'new > 100 && comm == "sshd"', "changed", "access == W", "ip in do_sysctl", "(new ^ old) & ~0x7 || !(cpu < 2)",
    "new.flags[2] == RED", "old->next != 0", "-new >> 3 == 1 << 2", "comm != 'a*'", "uid == 0 && pid - tid != 0",
)  # fmt: skip
_C = """
enum color { RED, GREEN = 5, BLUE = -1 };
struct node { struct node *next; const char *name; char text[16]; union { long n; void *p; }; unsigned a : 3, b : 9;
  int (*call)(struct node *, char); double real; int open[]; };
typedef struct { int x, y; } point_t;
int counter = 1; struct node first; enum color shade; int matrix[2][3]; point_t here; static int hidden;
char *strings[5];
int bump(void) { static int calls; return ++calls + counter + hidden; }
int main(void) { return bump(); }
"""
_CXX = """
namespace ns { struct Base { int member; virtual int v() { return 1; } };
class Derived : public Base { public: int own; int &ref; Derived(int &r) : own(2), ref(r) {} };
template <typename T> struct Box { T value; static T count; }; template <typename T> T Box<T>::count = 6;
int counter = 1; }
template struct ns::Box<int>; int target; ns::Derived derived(target);
int main() { static unsigned once = 4; return once++; }
"""
_FLAGS = {
    "dwarf2": "-gdwarf-2 -gstrict-dwarf", "dwarf4": "-gdwarf-4", "dwarf5": "-gdwarf-5", "wide": "-gdwarf64 -gdwarf-5",
    "packed": "-gdwarf-5 -gz=zlib", "units": "-gdwarf-5 -fdebug-types-section",
}  # fmt: skip


def main() -> None:
    """Make what can be made here."""
    for name, make in _MAKERS.items():
        folder = targets.FOLDER / "seeds" / name
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(OSError, KsymError, subprocess.CalledProcessError, ZstdMissing):
            for label, data in make():
                (folder / label).write_bytes(data)


Seeds = Iterator[tuple[str, bytes]]


def _requests() -> Seeds:
    for number, text in enumerate(_REQUESTS):
        yield f"request{number:02}", b"\0" + text.encode()
    for number, text in enumerate(_CONDITIONS):
        yield f"condition{number:02}", b"\xff" + text.encode()
    for number, text in enumerate(("unsigned long long", "struct foo *", "u32", "char const **")):
        yield f"type{number:02}", b"\x70" + text.encode()


def _demangled() -> Seeds:
    names = (
        "_ZN2ns7counterE", "_ZZ3fooiE7counter", "_ZN2ns3BoxIiE5countE", "_ZGVZ3foovE4once",
        "_ZNSt6vectorIiSaIiEE3endEv",
        "_ZN12_GLOBAL__N_16hiddenE", "_ZL6static", "_Z3fooB5cxx11v.cold", "ns::(anonymous namespace)::operator()(int)",
        "_ZTVN2ns4BaseE", "_Z1fI1AIS0_S0_EEvT_",
    )  # fmt: skip
    for number, name in enumerate(names):
        yield f"name{number:02}", name.encode()


def _kallsyms() -> Seeds:
    lines = Path("/proc/kallsyms").read_bytes().splitlines(keepends=True)
    wanted = (
        b" _text\n",
        b" _stext\n",
        b" _etext\n",
        b" __stop___param\n",
        b" __start___param\n",
        b" do_exit\n",
    )
    some = [line for at, line in enumerate(lines) if at % (len(lines) // 5) == 0 or line.endswith(wanted)]
    modules = [line for line in lines if b"\t[" in line][:3]
    yield "kernel", b"".join(some)
    yield (
        "modules",
        b"".join(some[-4:] + modules) + b"ffffffffc0000000 t init_module\t[m]\nffffffffc0000010 b x\t[m]\n",
    )
    yield "hidden", b"".join(b"0000000000000000 T %s" % line.split(b" ", 2)[2] for line in some[:5])
    yield (
        "data",
        b"ffffffff81000000 T _text\nffffffff82000000 D jiffies\nffffffff82000008 d init_task\n0 A percpu",
    )


def _btf() -> Seeds:
    yield "kernel", b"\0" + _cut_btf(Path("/sys/kernel/btf/vmlinux").read_bytes())
    for order in "<>":
        writer = BtfWriter(order)
        number = writer.integer("int", 4, 1)
        char = writer.const(writer.integer("char", 1, 2))
        kind = writer.enum("color", 4, [("RED", 0), ("BLUE", -1)], signed=True)
        writer.enum64("big", 8, [("HUGE", 1 << 40)])
        node = writer.struct(
            "node", 32, [("next", writer.count + 2, 0), ("n", number, 64, 5), ("c", kind, 96)]
        )
        writer.pointer(node)
        writer.array(char, 16)
        writer.forward("later", union=True)
        writer.typedef("alias", writer.volatile(number))
        writer.function("f", writer.prototype(number, [("x", number)]))
        variable = writer.variable("counter", number)
        writer.section(".data..percpu", 64, [(variable, 8, 4)])
        writer.real("double", 8)
        writer.type_tag("user", node)
        yield f"all{'big' if order == '>' else ''}", b"\0" + writer.blob()
    split = BtfWriter()
    split.struct("mine", 8, [("x", 1, 0), ("y", 2, 32)])
    yield "split", b"\xff" + split.blob()


def _cut_btf(data: bytes) -> bytes:
    """The first types of a kernel, and the strings that they need."""
    kernel = Btf(data)
    index, types, strings, known = kernel._index, bytearray(), bytearray(b"\0"), {0: 0}

    def text(at: int) -> int:
        if at not in known:
            known[at] = len(strings)
            strings.extend(index.text(at).encode() + b"\0")
        return known[at]

    for number in range(1, 60):
        record = index.record(number)
        body = list(record.body)
        step = {4: 3, 5: 3, 6: 2, 13: 2, 19: 3}.get(record.kind)
        for at in range(0, len(body), step) if step else ():
            body[at] = text(body[at])
        info = record.flag << 31 | record.kind << 24 | record.vlen
        types += struct.pack(f"<{3 + len(body)}I", text(record.name), info, record.word, *body)
    head = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings))
    return head + bytes(types) + bytes(strings)


def _elf() -> Seeds:
    symbols = [
        Sym("counter", 0x2000, section=2),
        Sym("main", 0x1000, 16, 2),
        Sym("counter.0", 0x2008, bind=0, section=2),
    ]
    symbols += [
        Sym("prog.c", 0, 0, 4, 0, 0xFFF1),
        Sym("_ZN2ns7counterE", 0x2010, section=2),
        Sym("asm", 0x1020, 0, 0),
    ]
    for bits in (32, 64):
        for order in "<>":
            image = Image(
                bits, order, symbols=symbols, dynamic_symbols=symbols[:2], loads=[(0, 0, 0x1000, 0x1000)],
                build_id=bytes(range(20)),
            )  # fmt: skip
            yield f"made{bits}{'big' if order == '>' else ''}", image.write()
    yield "gcc", _built(_C, "c", "-s -nostdlib -shared -fPIC")
    yield "packed", _built(_C, "c", "-c -g -gz=zlib")


def _dwarf() -> Seeds:
    # Linked: in what is not, offsets are still to be put in, and nothing is found.
    linked = "-nostdlib -shared -fPIC -Wl,--build-id=none -Wl,-z,noseparate-code"
    for label, flags in _FLAGS.items():
        yield f"c-{label}", _built(_C, "c", f"{linked} {flags}")
    yield "cxx", _built(_CXX, "cc", f"{linked} -gdwarf-5")


def _built(source: str, suffix: str, flags: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"prog.{suffix}")
        path.write_text(source)
        compiler = "g++" if suffix == "cc" else "gcc"
        hidden = f"-ffile-prefix-map={folder}=/src"
        command = [
            compiler,
            path.name,
            "-o",
            "prog",
            "-fno-asynchronous-unwind-tables",
            hidden,
            *flags.split(),
        ]
        subprocess.run(command, check=True, cwd=folder, stderr=subprocess.DEVNULL)
        remove = ("-R", ".comment", "-R", ".note.gnu.property", "-R", ".debug_aranges", "-R", ".eh_frame")
        if "-s " not in flags:
            subprocess.run(["objcopy", *remove, "prog"], check=True, cwd=folder, stderr=subprocess.DEVNULL)
        return Path(folder, "prog").read_bytes()


def _perf_data() -> Seeds:
    integer = parse_type("int")
    node = Struct("struct node", 16, False, lambda: _FIELDS)
    kinds = {"int": (integer, 4), "struct": (node, 16), "untyped": (None, 8)}
    for label, (kind, length) in kinds.items():
        yield f"ksym-{label}", _recording(Variable("./prog:counter", 0x404000, length, Space.USER, kind))
    kernel = Variable("jiffies", 0xFFFFFFFF82000000, 8, Space.KERNEL, parse_type("unsigned long"))
    yield "ksym-kernel", _recording(kernel, request="jiffies:-w-", stacks=True)
    yield "ksym-plain", _recording(kernel, request="jiffies:rw-", values=False)
    yield "ksym-cut", _recording(kernel, request="jiffies:rw-", finish=False)
    yield "ksym-packed", _recording(kernel, request="jiffies:rw-", compressor=Compressor())
    yield from _perfs()


_FIELDS = (
    Field("next", Pointer("struct node *", 8, lambda: parse_type("int")), 0),
    Field("shade", Enum("enum color", 4, True, (("RED", 0), ("BLUE", -1))), 8),
    Field("text", Integer("char", 1, True, Encoding.CHAR), 12),
    Field("bits", Integer("int", 4, False), 12, (8, 5)),
)


@contextlib.contextmanager
def _elsewhere() -> Iterator[None]:
    """The recorder describes a small process, and a machine that is none."""
    machine = os.uname_result(("Linux", "host", "6.1.0", "#1", "x86_64"))
    with subprocess.Popen(["sleep", "60"]) as process:
        try:
            with (
                mock.patch("os.uname", return_value=machine),
                mock.patch("os.getpid", return_value=process.pid),
                mock.patch("sys.argv", ["ksym", "record", "./prog:counter"]),
            ):
                yield
        finally:
            process.kill()


def _recording(
    variable: Variable, *, request: str = "./prog:counter:rw-", stacks: bool = False, values: bool = True,
    finish: bool = True, compressor: Compressor | None = None,
) -> bytes:  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, _elsewhere():
        path = Path(folder, "x.data")
        watches = make_plan([(parse_request(request), variable)]).watches
        armed = FakeArmed(watches, stacks=stacks, values=values)
        options: dict[str, Any] = {} if finish else {"flush_seconds": 0}
        if compressor:
            options["compressor"] = lambda: compressor
        recorded = Recorded(path, armed, _CODE, **options)
        time = 100
        for number in range(2):
            armed.rings[0].put(
                perf.comm(time, _PID, _PID, f"name{number}"), perf.fork(time, _PID + 1, _PID + 1, _PID, _PID)
            )
            armed.rings[0].put(perf.mmap2(time, _PID, 0x400000, 0x2000, 0, "/bin/prog"))
            for each in range(3):
                time += 1
                ip = sorted(_CODE)[(number + each) % 3]
                size = variable.length
                hit = perf.Hit(Hit.OLD | Hit.NEW, time, 0, bytes([time]) * size, bytes([time + 1]) * size)
                chain = [(1 << 64) - 128, ip, (1 << 64) - 512, 0x402000 + number] if stacks else None
                armed.rings[each % 2].put(
                    perf.sample(
                        time, cpu=each % 2, event=armed.event(watches[0], each % 2), ip=ip, pid=_PID, tid=_PID,
                        chain=chain, hit=hit if values else None,
                    )
                )  # fmt: skip
            armed.rings[1].put(perf.lost(time, 1, 2))
            recorded.round()
        if finish:
            recorded.finish()
        else:
            recorded.recorder.close()
        return path.read_bytes()


def _perfs() -> Seeds:
    """perf's own recordings of a small program; its head is mostly what the kernel is called, and is cut."""
    perf_program = shutil.which("perf")
    if perf_program is None:
        return
    folder = Path(tempfile.gettempdir(), "ksym-seeds")  # its name gets into the recordings
    folder.mkdir()
    try:
        source = "volatile int counter; int main(void) { for (int i = 0; i < 4; i++) counter = i; return counter; }"
        Path(folder, "prog.c").write_text(source)
        subprocess.run(["gcc", "-O1", "-g", "-no-pie", "prog.c", "-o", "prog"], check=True, cwd=folder)
        symbols = subprocess.run(
            ["nm", "prog"], check=True, cwd=folder, capture_output=True, text=True
        ).stdout
        address = next(line.split()[0] for line in symbols.splitlines() if line.endswith(" counter"))
        for label, options in {"plain": [], "chains": ["-g"], "packed": ["-z"]}.items():
            command = [
                perf_program,
                "record",
                "-q",
                "-e",
                f"mem:0x{address}/4:rw",
                "-c",
                "1",
                *options,
                "-o",
                "out",
                "./prog",
            ]
            subprocess.run(command, check=False, cwd=folder, capture_output=True)
            release = os.uname().release.encode()
            data = Path(folder, "out").read_bytes()
            yield f"perf-{label}", data.replace(release, b"6.1.0".ljust(len(release), b"\0"))
    finally:
        shutil.rmtree(folder)


def _fuse_tree() -> Seeds:
    yield "open", _asked("answer", fuse.Opcode.OPEN, fuse.Opcode.READ, fuse.Opcode.RELEASE)
    yield "pipe", _asked("pipe", fuse.Opcode.OPEN, fuse.Opcode.READ, fuse.Opcode.POLL, fuse.Opcode.INTERRUPT)
    yield "folder", _asked("many", fuse.Opcode.OPENDIR, fuse.Opcode.READDIRPLUS, fuse.Opcode.RELEASEDIR)
    yield "make", _asked("instances", fuse.Opcode.MKDIR, fuse.Opcode.LOOKUP, fuse.Opcode.RMDIR)


def _asked(name: str, *opcodes: int) -> bytes:
    """A lookup, and requests about what was found (`fuse_kernel`)."""
    from fuzz.fuse_kernel import _OPCODES
    from fuzz.target_fuse_tree import _NAMES

    out = bytes((0, _OPCODES.index(fuse.Opcode.LOOKUP), 0, _NAMES.index(name), 0))
    for opcode in opcodes:
        out += bytes((0, _OPCODES.index(opcode), 1, 0, 1, 1, 1, 1, 1))
    return out + b"\xd9abc"


def _fuse_tracing() -> Seeds:
    from fuzz.fuse_kernel import _OPCODES
    from fuzz.target_fuse_tracing import _NAMES, _WRITES

    def code(opcode: int) -> int:
        return _OPCODES.index(opcode)

    for number, name in enumerate(_NAMES[:11]):
        out = bytes((0, code(fuse.Opcode.LOOKUP), 0, number, 0))
        out += bytes((0, code(fuse.Opcode.OPEN), 1, 0, 2))
        for write in range(number % 3, len(_WRITES), 5):
            out += bytes((0, code(fuse.Opcode.WRITE), 1, 0, write, 0, 1, 0))
        out += bytes((0xD9, 0, 0, 0, code(fuse.Opcode.READ), 1, 0, 0, 0, 1, 0))
        yield name, out


_MAKERS: dict[str, Callable[[], Seeds]] = {
    "requests": _requests, "demangled": _demangled, "kallsyms": _kallsyms, "btf": _btf, "elf": _elf, "dwarf": _dwarf,
    "perf_data": _perf_data, "fuse_tree": _fuse_tree, "fuse_tracing": _fuse_tracing,
}  # fmt: skip


def _damage() -> Seeds:
    for kind in range(8):
        yield f"step{kind}", bytes((kind, kind, 0x40, 0, 0x10 * kind, 0, 0x20, 40, 0, 0, 0))


_MAKERS["perf_damage"] = _damage

if __name__ == "__main__":
    os.environ.setdefault("SOURCE_DATE_EPOCH", "0")
    main()
