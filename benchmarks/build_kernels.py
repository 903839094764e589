"""Build the FlashInfer kernels of the GPU backend on a machine with nvcc; it needs no GPU.

The result is a small package `flashinfer_jit_cache` in an ignored folder. On the GPU machine put that folder on
`PYTHONPATH` and FlashInfer finds the kernels there (its own wheel with that name works the same way); set
`FLASHINFER_DISABLE_JIT=1` to be told when one is missing instead of waiting for a compiler.

    python benchmarks/build_kernels.py [--jobs 2] [--only cascade bf16-128] [--target build/kernels]
    python benchmarks/build_kernels.py --check      # loads every kernel of the pack; needs no GPU either

It needs flashinfer-python (the version that the `gpu` extra pins) and its apache-tvm-ffi, torch of any kind, nvcc, a
C++ compiler and ninja. Nothing is linked against a driver: a stub of libcuda stands in for it.
"""

from __future__ import annotations

import argparse
import importlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final, NamedTuple

ROOT: Final = Path(__file__).parent.parent
PACKAGE: Final = "flashinfer_jit_cache"
INIT: Final = '''"""Kernels of FlashInfer {version}, built for {arch}."""

from pathlib import Path

__version__ = "{version}+local"


def get_jit_cache_dir() -> str:
    """Where FlashInfer looks for `<name>/<name>.so`."""
    return str(Path(__file__).parent / "kernels")
'''


class Variant(NamedTuple):
    """One compiled form of FlashInfer's paged attention: everything that it fixes at compile time."""

    dtype: str
    head_dim: int
    has_window: bool = False
    has_softcap: bool = False


VARIANTS: Final = {
    "bf16-128": Variant("bfloat16", 128),
    "bf16-64": Variant("bfloat16", 64),
    "bf16-64-window": Variant("bfloat16", 64, has_window=True),
    "bf16-64-softcap": Variant("bfloat16", 64, has_softcap=True),
    "fp16-64": Variant("float16", 64),
    "fp16-128": Variant("float16", 128),
    "bf16-256": Variant("bfloat16", 256),
}
"""By the name for `--only`, in the order in which they are built: what a first run needs comes first."""

CASCADE: Final = "cascade"
DEFAULT: Final = (CASCADE, *list(VARIANTS)[:-1])


def main() -> None:
    arguments = _arguments()
    target = arguments.target.resolve()
    if arguments.check:
        check(target, arch=arguments.arch)
        return
    work = target.with_name(target.name + "-work")
    prepare_environment(work, arch=arguments.arch, num_jobs=arguments.jobs)
    for name in arguments.only or DEFAULT:
        build(name, target, arch=arguments.arch)
    print(f"done: {sum(one.stat().st_size for one in target.rglob('*.so')):,} bytes of kernels in {target}")


def prepare_environment(work: Path, *, arch: str, num_jobs: int) -> None:
    """Say by environment variables what FlashInfer builds for, with what, and where; to be called before its import."""
    stubs = work / "stubs"
    stubs.mkdir(parents=True, exist_ok=True)
    source = stubs / "libcuda.c"
    source.write_text("void parrot_stub(void) {}\n")
    compiler = os.environ.get("CC", "cc")
    # The soname of the driver's library: what is linked against the stub finds the real one where it runs.
    command = [compiler, "-shared", "-Wl,-soname,libcuda.so.1", "-o", str(stubs / "libcuda.so"), str(source)]
    subprocess.run(command, check=True)
    os.environ.setdefault("CUDA_HOME", _cuda_home())
    os.environ["FLASHINFER_CUDA_ARCH_LIST"] = arch
    os.environ["FLASHINFER_WORKSPACE_BASE"] = str(work)
    os.environ["FLASHINFER_EXTRA_LDFLAGS"] = f"-L{stubs} -Wl,--as-needed"
    os.environ["MAX_JOBS"] = str(num_jobs)


def build(name: str, target: Path, *, arch: str) -> None:
    """Compile one module, unless the pack has it, and put it into the pack."""
    spec = module_spec(name)
    version = importlib.import_module("flashinfer").__version__
    library = target / PACKAGE / "kernels" / spec.name / f"{spec.name}.so"
    if library.exists():
        print(f"{name}: there already")
        return
    began = time.monotonic()
    spec.build()
    library.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(spec.jit_library_path, library)
    subprocess.run(["strip", "--strip-unneeded", str(library)], check=False)
    (target / PACKAGE / "__init__.py").write_text(INIT.format(version=version, arch=arch))
    print(f"{name}: {time.monotonic() - began:.0f} s, {library.stat().st_size:,} bytes", flush=True)


def module_spec(name: str) -> Any:
    """Return FlashInfer's own description of the module that we call `name`."""
    if name == CASCADE:
        return importlib.import_module("flashinfer.jit.cascade").gen_cascade_module()
    torch = importlib.import_module("torch")
    one = VARIANTS[name]
    dtype = getattr(torch, one.dtype)
    generate = importlib.import_module("flashinfer.jit.attention").gen_batch_prefill_module
    no_position_encoding, is_half_reduction = 0, False
    shape = (one.head_dim, one.head_dim, no_position_encoding)
    return generate("fa2", dtype, dtype, dtype, torch.int32, *shape, one.has_window, one.has_softcap, is_half_reduction)


def check(target: Path, *, arch: str) -> None:
    """Load every kernel of the pack through FlashInfer, with its compiler switched off."""
    os.environ["FLASHINFER_DISABLE_JIT"] = "1"
    os.environ["FLASHINFER_CUDA_ARCH_LIST"] = arch
    os.environ["FLASHINFER_WORKSPACE_BASE"] = str(target.with_name(target.name + "-work"))
    sys.path.insert(0, str(target))
    for name in (CASCADE, *VARIANTS):
        spec = module_spec(name)
        if spec.is_aot:
            functions = ("merge_state_in_place",) if name == CASCADE else ("plan", "workspace_size", "paged_run")
            module = spec.build_and_load()
            print(f"{name}: loaded, with {', '.join(one for one in functions if callable(getattr(module, one)))}")


def _cuda_home() -> str:
    # Not where `nvcc` is first found on the path: that may be a script which calls the toolkit's.
    for folder in (Path("/usr/local/cuda"), *sorted(Path("/usr/local").glob("cuda-*"), reverse=True)):
        if (folder / "bin" / "nvcc").exists():
            return str(folder)
    raise SystemExit("no CUDA toolkit in /usr/local: set CUDA_HOME to the folder that has bin/nvcc")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", type=Path, default=ROOT / "build" / "kernels", help="folder of the pack")
    parser.add_argument("--arch", default="9.0a", help="compute capability: 9.0a is Hopper (H100, H200)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="compilers at a time")
    parser.add_argument("--only", nargs="+", choices=(CASCADE, *VARIANTS), help="build these modules alone")
    parser.add_argument("--check", action="store_true", help="load the pack instead of building it")
    return parser.parse_args()


if __name__ == "__main__":
    main()
