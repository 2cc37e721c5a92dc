# SPDX-License-Identifier: GPL-2.0
"""Boots dom0 and runs a script there: scripts/dom0's part inside the tool root.

This file only wires: arguments, a folder for the run, the initramfs, the machine, and
what came of it.
"""

from __future__ import annotations

import argparse
import io
import os
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import disks
import domu
import initramfs
import kernel as kernels
import lifetime
import qemu
import tools
from kernel import CACHE, Kernel
from outcome import DOM0_CRASH, KERNEL_FAULT, KERNEL_UP, XEN_CRASH, XEN_UP, Outcome, Status, excerpt
from paths import Folders
from problem import Problem, report, say

LIBRARY = Path(__file__).parent
TESTS = LIBRARY.parent.parent / "tests/dom0"
KEPT_LOGS = 40
STALE_SECONDS = 24 * 3600
LAST_WORDS = 1.0
"""Seconds that a crashed machine is given to finish its message."""


def parser() -> argparse.ArgumentParser:
    """The options; their manual is the head of scripts/dom0."""
    made = argparse.ArgumentParser(prog="dom0", add_help=False, allow_abbrev=False)
    made.add_argument("--host-folders", nargs=3)
    for name in ("--kernel", "--modules", "--xen", "--out", "--run", "--command"):
        made.add_argument(name)
    for name, default in (("--mem", "2G"), ("--dom0-mem", "1G"), ("--machine", "pc")):
        made.add_argument(name, default=default)
    made.add_argument("--smp", type=int, default=2)
    made.add_argument("--timeout", type=float, default=300)
    flags = ("--icount", "--high-mem", "--bare", "--no-driver", "--interactive", "--allow-warnings", "--guest")
    for name in (*flags, "--monitor"):
        made.add_argument(name, action="store_true")
    repeated = ("--device", "--module", "--include-module", "--files", "--param", "--tool", "--append", "--xen-append")
    for name in (*repeated, "--qemu-arg", "--disk", "--allow-warning"):
        made.add_argument(name, action="append", default=[])
    return made


def choose_kernel(options: argparse.Namespace, folders: Folders) -> Kernel:
    """The kernel that --kernel and --modules name."""
    if not options.kernel:
        raise Problem("no kernel", "Give --kernel, or run scripts/dom0, which resolves it.")
    if "/" in options.kernel:
        modules = folders.existing(options.modules) if options.modules else None
        return kernels.own(folders.existing(options.kernel), modules)
    return kernels.prepared(options.kernel)


def read_script(options: argparse.Namespace, folders: Folders) -> bytes:
    """The script to run, with a first line that names its interpreter if it has none."""
    if sum(map(bool, (options.run, options.command, options.interactive))) != 1:
        raise Problem("give one of --run, --command and --interactive", "See scripts/dom0 --help.")
    if options.interactive:
        return b""
    if options.command:
        text = options.command.encode() + b"\n"
    elif options.run == "-":
        text = sys.stdin.buffer.read()
    else:
        text = folders.existing(options.run).read_bytes()
    return text if text[:2] == b"#!" or text[:4] == b"\x7fELF" else b"#!/bin/sh\n" + text


def load_driver(options: argparse.Namespace, kernel: Kernel, folders: Folders) -> bool:
    """Whether the driver is to be loaded; it must be there then."""
    if options.no_driver or options.bare:
        return False
    if kernel.driver.is_file():
        return True
    # A kernel of one's own may have the driver built in.
    if "/" in options.kernel:
        return False
    raise Problem(
        f"no driver for {kernel.release}: {folders.outside(kernel.driver)} is not there",
        "Build it with 'make', or boot without it: --no-driver.",
    )


def build_initramfs(
    place: Path, options: argparse.Namespace, kernel: Kernel, images: list[disks.Disk], folders: Folders
) -> None:
    """Writes the initramfs of this run."""
    with_driver = load_driver(options, kernel, folders)
    script = read_script(options, folders)
    with place.open("wb") as out:
        archive = initramfs.Archive(out)
        archive.device("dev/console", 5, 1)
        archive.device("dev/null", 1, 3, 0o666)
        for folder in ("proc", "sys", "tmp", "run", "out", "mnt"):
            archive.directory(folder)
        initramfs.add_busybox(archive)
        archive.data("init", (LIBRARY / "guest/init.sh").read_bytes(), 0o755)
        archive.data("etc/script", script, 0o755)
        archive.data("etc/passwd", b"root::0:0:root:/:/bin/sh\n")
        archive.data("etc/" + disks.SUMS, disks.sums(images).encode())
        if (TESTS / "lib.sh").is_file():
            archive.file(TESTS / "lib.sh", "lib/test.sh")
        tools.add(archive, "outport")
        needed = options.module + options.include_module
        for name in options.tool:
            needed += tools.add(archive, name)
        kernels.add_modules(archive, kernel, needed)
        if kernel.driver.is_file():
            kernels.add_driver(archive, kernel)
        if options.guest:
            domu.add(archive, kernel)
        for text in options.files:
            folder, _, name = text.partition("=")
            archive.tree(folders.existing(folder), name)
        settings = {
            "output_port": str(qemu.OUTPUT_PORT),
            "records_port": str(qemu.RECORDS_PORT),
            "driver": f"/{kernel.folder}/extra/{kernels.DRIVER}.ko" if with_driver else "",
            "params": " ".join(options.param),
            "modules": " ".join(options.module),
            "interactive": "1" if options.interactive else "",
        }
        lines = [f"{name}={shlex.quote(value)}\n" for name, value in settings.items()]
        archive.data("etc/run", "".join(lines).encode())
        archive.close()


def build_machine(
    options: argparse.Namespace, kernel: Kernel, initrd: Path, images: list[disks.Disk], folders: Folders
) -> qemu.Machine:
    """The machine that the options describe."""
    xen = None
    if not options.bare:
        xen = folders.existing(options.xen) if options.xen else qemu.newest_xen()
    devices: list[str] = []
    named = {disk.name for disk in images if any("{%s}" % disk.name in text for text in options.device)}
    for disk in images:
        devices += disk.drive if disk.name not in named else []
    for text in options.device:
        for disk in images:
            text = text.replace("{%s}" % disk.name, str(disk.path))
        devices += shlex.split(text) if text.startswith("-") else ["-device", text]
    return qemu.Machine(
        kernel=kernels.unpacked(kernel.image) if xen else kernel.image,
        initramfs=initrd,
        xen=xen,
        memory=options.mem,
        dom0_memory=options.dom0_mem,
        processors=options.smp,
        icount=options.icount,
        high_memory=options.high_mem,
        machine=options.machine,
        kernel_arguments=options.append,
        xen_arguments=options.xen_append,
        devices=devices + options.qemu_arg,
        monitor=initrd.with_name("monitor") if options.monitor else None,
    )


def follow(machine: qemu.Machine, folder: Path, timeout: float) -> Outcome:
    """Runs the machine to its end, passing on output and progress as they come."""
    console, output, records = (folder / name for name in ("console.log", "output", "records"))
    followers = [qemu.Follower(path) for path in (console, output, records)]
    verbose = os.environ.get("V") == "1"
    began = time.monotonic()
    outcome = Outcome()
    crashed_at: float | None = None
    log = ""

    def reached(phase: str) -> None:
        outcome.phase = phase
        say(f"{time.monotonic() - began:5.1f} s  {phase}")

    ports = {qemu.OUTPUT_PORT: output, qemu.RECORDS_PORT: records}
    process = qemu.start(machine.command(f"file:{console}", ports), folder / "qemu.log")
    steps = [(XEN_UP, "Xen up")] if machine.xen else []
    steps.append((KERNEL_UP, "kernel up"))
    try:
        while True:
            # Seen as ended before the last read, so that nothing written is missed.
            ended = process.poll() is not None
            new = qemu.clean(followers[0].more())
            log += new
            if verbose:
                sys.stderr.write(new)
                sys.stderr.flush()
            while steps and steps[0][0].search(log):
                reached(steps.pop(0)[1])
            # The script's output goes out before the news that it ended.
            news = outcome.records(followers[2].more())
            sys.stdout.buffer.write(followers[1].more())
            sys.stdout.buffer.flush()
            for phase in news:
                reached(phase)
            if ended:
                return outcome
            now = time.monotonic()
            if crashed_at is None and new and (XEN_CRASH.search(log) or DOM0_CRASH.search(log)):
                crashed_at = now
            if crashed_at is not None and now - crashed_at > LAST_WORDS:
                return outcome
            if now - began > timeout:
                outcome.timed_out = True
                return outcome
            qemu.pause()
    finally:
        qemu.stop(process)


def console(folder: Path) -> str:
    """What dom0 and Xen said."""
    return qemu.clean((folder / "console.log").read_bytes())


def boot(machine: qemu.Machine, folder: Path, timeout: float) -> Outcome:
    """Runs the machine to its end; once more if its kernel tripped as it started, as the disks are as they were."""
    outcome = follow(machine, folder, timeout)
    if outcome.tripped(console(folder)):
        say("the kernel tripped over code that it was changing as it started: once more")
        outcome = follow(machine, folder, timeout)
    return outcome


def unpack(archive: bytes, target: Path) -> None:
    """Puts what was in dom0's /out into `target`."""
    target.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(target, filter="data")


def claimed_sums(archive: bytes) -> str:
    """What dom0 left in /out/disks.sha256."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        try:
            member = tar.extractfile("./" + disks.SUMS)
        except KeyError:
            return ""
        return member.read().decode() if member else ""


def judge(
    outcome: Outcome, log: str, images: list[disks.Disk], options: argparse.Namespace
) -> tuple[Status, str, list[str]]:
    """The status, what to say, and the lines of the log that show it."""
    if XEN_CRASH.search(log):
        return Status.XEN_CRASHED, "Xen crashed", excerpt(log, XEN_CRASH)
    if DOM0_CRASH.search(log):
        return Status.DOM0_CRASHED, f"dom0 crashed ({outcome.phase})", excerpt(log, DOM0_CRASH, 25)
    if outcome.timed_out and outcome.script_status is None:
        what = f"no end within {options.timeout:.0f} s ({outcome.phase}); --timeout gives it longer"
        return Status.TIMEOUT, what, log.splitlines()[-8:]
    if outcome.failure:
        return Status.DRIVER_FAILED, outcome.failure, log.splitlines()[-12:]
    if outcome.script_status is None:
        return Status.NO_RESULT, f"the machine ended without a result ({outcome.phase})", log.splitlines()[-12:]
    if outcome.script_status == 0:
        wrong = disks.differences(claimed_sums(outcome.archive), images) if outcome.archive else []
        if wrong:
            return Status.DISK_DIFFERS, "a disk is not what dom0 said", wrong
        allowed = options.allow_warning
        counting = "\n".join(line for line in log.splitlines() if not any(text in line for text in allowed))
        if not options.allow_warnings and KERNEL_FAULT.search(counting):
            return Status.WARNED, "the script succeeded, but dom0's kernel complained", excerpt(counting, KERNEL_FAULT)
    return Status.RESULT, "", []


def interact(machine: qemu.Machine) -> int:
    """Gives the terminal to the machine's console."""
    # The emulator's own Ctrl-A x ends it; all else, Ctrl-C included, is dom0's.
    command = machine.command("mon:stdio", {})
    return subprocess.run(command).returncode


def changed(path: Path) -> float:
    """When a file or folder was changed last; now, if another run has just removed it."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return time.time()


def run_folder() -> Path:
    """A new folder for a run's files; those that killed runs left behind go."""
    place = CACHE / "run"
    place.mkdir(parents=True, exist_ok=True)
    for old in place.iterdir():
        if time.time() - changed(old) > STALE_SECONDS:
            shutil.rmtree(old, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=time.strftime("%m%d-%H%M%S-"), dir=place))


def keep_log(folder: Path) -> Path:
    """Moves the console's log to where it stays; the oldest ones go."""
    kept = CACHE / "log/dom0"
    kept.mkdir(parents=True, exist_ok=True)
    place = kept / f"{folder.name}.log"
    shutil.move(folder / "console.log", place)
    logs = sorted(kept.glob("*.log"), key=changed)
    for old in logs[:-KEPT_LOGS]:
        old.unlink(missing_ok=True)
    return place


def run(options: argparse.Namespace, folders: Folders) -> int:
    """Does what the options say; gives the exit status."""
    kernel = choose_kernel(options, folders)
    target = folders.inside(options.out) if options.out else None
    folder = run_folder()
    try:
        images = [disks.create(text, folder) for text in options.disk]
        build_initramfs(folder / "initramfs", options, kernel, images, folders)
        machine = build_machine(options, kernel, folder / "initramfs", images, folders)
        if options.interactive:
            return interact(machine)
        outcome = boot(machine, folder, options.timeout)
        log = console(folder)
        kept = keep_log(folder)
        if outcome.archive and target:
            unpack(outcome.archive, target)
        status, what, lines = judge(outcome, log, images, options)
        if status is Status.RESULT:
            return outcome.script_status or 0
        complaint = (folder / "qemu.log").read_text(errors="replace").splitlines()
        if status is Status.NO_RESULT:
            lines += [f"QEMU: {line}" for line in complaint if "TCG doesn't support" not in line]
        report("dom0", Problem(what, *(f"| {line}" for line in lines), f"(whole log: {folders.outside(kept)})"))
        return status
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> int:
    """Parses the arguments and runs."""
    made = parser()
    options = made.parse_args()
    folders = Folders(*options.host_folders) if options.host_folders else Folders()
    try:
        return run(options, folders)
    except Problem as problem:
        report("dom0", problem)
        return Status.USAGE


if __name__ == "__main__":
    lifetime.end_in_order()
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
