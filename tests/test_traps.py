"""The comparison of a module's functions that can end a VM with a list, on a small module as text."""

from __future__ import annotations

import re
import subprocess

import pytest

from harness.envoy import PROJECT

# As Binaryen writes it: each level is indented by one more blank.
MODULE = """\
(module
 (type $0 (func (param i32)))
 (type $1 (func))
 (type $2 (func (param i64)))
 (table $0 4 4 funcref)
 (elem $0 (i32.const 1) $by_pointer $of_another_type)
 (export "proxy_on_tick" (func $proxy_on_tick))
 (export "proxy_on_configure" (func $proxy_on_configure))
 (export "_initialize" (func $_initialize))
 (func $panic (param $0 i32)
  (call $reports
   (local.get $0)
  )
  (unreachable)
 )
 (func $reports (param $0 i32)
  (unreachable)
 )
 (func $alloc::alloc::handle_alloc_error
  (unreachable)
 )
 (func $proxy_on_tick (param $0 i32)
  (call $indexes
   (local.get $0)
  )
  (call_indirect (type $0)
   (local.get $0)
   (i32.const 1)
  )
 )
 (func $indexes (param $0 i32)
  (if
   (local.get $0)
   (then
    (call $panic
     (local.get $0)
    )
    (unreachable)
   )
  )
  (if
   (i32.eqz
    (local.get $0)
   )
   (then
    (call $alloc::alloc::handle_alloc_error)
    (unreachable)
   )
  )
 )
 (func $by_pointer (param $0 i32)
  (block
   (br_if 0
    (local.get $0)
   )
   (unreachable)
  )
 )
 (func $of_another_type (param $0 i64)
  (call $panic
   (i32.const 0)
  )
 )
 (func $proxy_on_configure
  (call $indexes
   (i32.const 2)
  )
  (call $reads)
 )
 (func $reads
  (call $panic
   (i32.const 0)
  )
 )
 (func $_initialize
  (call $never_in_a_callback)
 )
 (func $never_in_a_callback
  (call $panic
   (i32.const 0)
  )
 )
)
"""

LISTED = {
    "by_pointer -> unreachable": "proxy_on_tick > by_pointer",
    "indexes -> panic": "proxy_on_tick > indexes",
    "reads -> panic": "proxy_on_configure > reads",
}


class Comparison:
    def __init__(self, directory):
        self.list, self.text = directory / "traps.yaml", directory / "module.wat"
        self.text.write_text(MODULE)

    def run(self, *options):
        command = [PROJECT / ".venv/bin/python", PROJECT / ".ci/traps-list", *options]
        command += ["--compiler", "rustc 1.2.3 (a note)", "--list", self.list, self.text]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    def give_reasons(self):
        self.list.write_text(self.list.read_text().replace("reason: ''", "reason: the caller looks first"))


@pytest.fixture
def comparison(tmp_path):
    return Comparison(tmp_path)


def test_each_function_that_a_callback_can_reach_is_listed_with_the_way_to_it(comparison):
    done = comparison.run()
    assert done.returncode == 1
    assert dict(re.findall(r"new: (.*)\n +by (.*)\n", done.stdout)) == LISTED
    assert "3 ways to end a VM: 3 new" in done.stdout


def test_a_list_with_reasons_passes_and_names_its_compiler(comparison):
    comparison.run("--write")
    without = comparison.run()
    assert without.returncode == 1
    assert "without a reason: indexes -> panic" in without.stdout
    comparison.give_reasons()
    done = comparison.run()
    assert (done.returncode, done.stdout) == (0, "3 ways to end a VM: 0 new, 0 without a reason; 0 are gone\n")
    assert "\ncompiler: rustc 1.2.3 (a note)\n" in comparison.list.read_text()


def test_a_function_that_is_gone_fails_until_it_is_taken_out(comparison):
    comparison.run("--write")
    comparison.give_reasons()
    comparison.text.write_text(MODULE.replace("(call $reads)", ""))
    done = comparison.run()
    assert done.returncode == 1
    assert "gone: reads -> panic" in done.stdout
    comparison.run("--write")
    assert comparison.run().returncode == 0
    text = comparison.list.read_text()
    assert "reads" not in text
    assert "reason: the caller looks first" in text
