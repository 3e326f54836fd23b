#!/usr/bin/env python3
"""Assembles FEX-Emu's unittests (a checkout of theirs, needs nasm) for ThirdPartySuiteTests.

usage: assemble-fex-tests.py FEX/unittests OUTPUT    then: LODGE_FEX_TESTS=OUTPUT dotnet test ...
"""
import concurrent.futures
import json
import os
import re
import subprocess
import sys

HEADS = {
    "ASM": (64, "BITS 64\n"),
    "32Bit_ASM": (32, "BITS 32\norg 10000h\nmov eax, 0x17\nmov ds, ax\nmov es, ax\n"),
}


def assemble(root, output, path):
    name = os.path.relpath(path, root)[:-4]
    bits, head = HEADS[name.split(os.sep)[0]]
    text = open(path, errors="replace").read()
    config = re.search(r"%ifdef CONFIG(.*?)%endif", text, re.S)
    expectations = json.loads(config.group(1)) if config else {}
    target = os.path.join(output, name)
    os.makedirs(os.path.dirname(target), exist_ok=True)
    source = target + ".tmp.asm"
    with open(source, "w") as file:
        file.write(head + text.rstrip("\n") + "\nret\n")
    run = subprocess.run(["nasm", "-w-all", "-i", os.path.join(root, "ASM", "Includes") + "/", source, "-o", target + ".bin"], capture_output=True, text=True)
    os.remove(source)
    if run.returncode:
        return f"{name}: {run.stderr.strip()}"
    expectations["Bits"] = bits
    with open(target + ".json", "w") as file:
        json.dump(expectations, file)
    return None


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    root, output = sys.argv[1:]
    paths = [os.path.join(d, f) for sub in HEADS for d, _, files in os.walk(os.path.join(root, sub)) for f in files if f.endswith(".asm")]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        problems = [p for p in pool.map(lambda path: assemble(root, output, path), paths) if p]
    print(f"{len(paths) - len(problems)} of {len(paths)} assembled")
    sys.exit("\n".join(problems) if problems else 0)


main()
