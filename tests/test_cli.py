"""The command line: what it prints, what it refuses, what it costs to start."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner, Result

import tfdoc.cli
from tests.test_house import CPU_TIME, bare, fresh, slowness
from tfdoc import ledger, preset_names
from tfdoc.cli import main
from tfdoc.cost.estimates import estimate
from tfdoc.cost.report import KINDS, Look, as_dict, html, text

LORA = "llama-3-8b --lora 16 --gpu 24GiB --overhead 1GiB"


def run(line: str, **env: str) -> Result:
    return CliRunner().invoke(main, line.split(), env={"COLUMNS": "80", **env})


def printed(line: str, **env: str) -> str:
    done = run(line, **env)
    assert done.exit_code == 0, done.output
    return done.stdout


def process(*command: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603
        [sys.executable, *command],
        capture_output=True,
        text=True,
        env=os.environ | env,
        check=False,
    )


# What it prints


def test_an_estimate_says_what_it_is_of_and_what_it_needs() -> None:
    said, found = printed("estimate gpt2"), estimate("gpt2")
    assert said.startswith("gpt2 (GPT2LMHeadModel): 124,439,808 parameters, all active")
    for name, number in found.parameters.by_component.items():
        assert f"  {name}" in said
        assert f"{number:,}" in said
    for kind, number in found.memory.at_peak.items():
        assert f"{kind}" in said
        assert f"{number:,}" in said
    assert f"Memory at its peak ({found.memory.peak_moment})" in said
    assert f"{found.memory.peak:,}" in said
    assert "reserves more" in said
    assert "not covered yet" in said
    assert "\x1b" not in said
    assert "LoRA" not in said


@pytest.mark.parametrize("width", [30, 60, 80, 100])
def test_lines_keep_to_the_width(width: int) -> None:
    for line in (f"estimate {LORA} --explain", "estimate gpt2 --infer"):
        said = printed(line, COLUMNS=str(width)).splitlines()
        # What is narrower than the numbers themselves is as wide as they are.
        assert max(map(len, said)) <= max(width, 60)


def test_settings_reach_the_estimate() -> None:
    line = (
        "estimate llama-3-8b --infer --batch 3 --seq 77 --precision amp --attn eager "
        "--logits last --kv-dtype fp8 --requests 5 --quant nf4 --lora 4 "
        "--lora-targets q_proj,v_proj --overhead 1.5GiB "
        "--architecture LlamaForCausalLM --json"
    )
    try:
        done = run(line)
        taken = json.loads(done.stdout)["settings"]
    except json.JSONDecodeError:
        pytest.fail(done.output)
    wanted: dict[str, Any] = {
        "mode": "infer", "batch": 3, "seq": 77, "precision": "amp", "attn": "eager",
        "logits": "last", "kv_dtype": "fp8", "requests": 5, "quant": "nf4",
        "lora": {"r": 4, "targets": "q_proj,v_proj"},
    }  # fmt: skip
    assert taken.items() >= wanted.items()
    line = "estimate gpt2 --train --checkpointing --optim sgd --accumulate 2 --json"
    taken = json.loads(printed(line))["settings"]
    wanted = {"mode": "train", "checkpointing": True, "optim": "sgd", "accumulate": 2}
    assert taken.items() >= wanted.items()


def test_json_has_its_agreed_keys() -> None:
    found = json.loads(printed(f"estimate {LORA} --json"))
    assert found.keys() == {
        "model", "architecture", "settings", "parameters", "memory", "flops", "lora",
        "gpu", "overhead", "fits", "largest_batch", "largest_seq", "levers", "left_out",
    }  # fmt: skip
    assert found["parameters"].keys() == {
        "total", "active", "embedding", "by_component"
    }  # fmt: skip
    peaks = {"peak", "peak_moment", "peaks", "at_peak"}
    assert found["memory"].keys() == {*KINDS} | peaks
    assert sum(found["memory"]["at_peak"].values()) == found["memory"]["peak"]
    assert found["flops"].keys() == {"forward", "training_step"}
    assert found["lora"] == {"trainable": ledger("llama-3-8b").lora(16)}
    assert (found["gpu"], found["overhead"]) == (24 * 2**30, 2**30)
    assert isinstance(found["fits"], bool)
    assert json.loads(printed("estimate gpt2 --json"))["fits"] is None


def test_explain_shows_every_step() -> None:
    steps = estimate("gpt2").steps
    assert steps
    said = " ".join(printed("estimate gpt2 --explain").split())
    for name, formula, numbers in steps:
        assert " ".join(f"{name} = {formula} = {numbers}".split()) in said
    found = json.loads(printed("estimate gpt2 --explain --json"))["steps"]
    assert [tuple(step.values()) for step in found] == list(steps)


def test_with_a_gpu_there_is_a_verdict() -> None:
    for size, verdict in (("1000GiB", "fits, "), ("1GiB", "does not fit")):
        said = printed(f"estimate llama-3-8b --infer --gpu {size}")
        assert f"{int(size[:-3]):,}.00 GiB: {verdict}" in said
        assert "largest batch at" in said
        assert "largest sequence at batch 1" in said
    lever, peak = next(iter(estimate("llama-3-8b", gpu=2**34).levers.items()))
    said = printed("estimate llama-3-8b --gpu 16GiB --overhead 1GiB")
    assert f"biggest lever: {lever}" in said
    assert f"{peak / 2**30 + 1:,.2f} GiB" in said
    said = printed(f"estimate {LORA}")
    assert "LoRA trains" in said
    assert f"{ledger('llama-3-8b').lora(16):,}" in said


def test_a_larger_model_says_what_is_left_out(tmp_path: Path) -> None:
    inner = {"model_type": "gemma3_text", "num_hidden_layers": 2}
    config = {"text_config": inner, "vision_config": {}, "model_type": "gemma3"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    said = printed(f"estimate {tmp_path}")
    assert "Only the text model is counted; left out: vision_config" in said


def test_presets_are_listed() -> None:
    everything = printed("presets").splitlines()
    assert [line.split()[0] for line in everything] == list(preset_names())
    some = json.loads(printed("presets MIXTRAL --json"))
    names = ["mixtral-8x7b", "mixtral-8x22b"]
    assert [row["name"] for row in some] == names
    assert all(row["type"] == "mixtral" for row in some)
    assert some[0]["active"] == ledger(names[0]).active < some[0]["total"]
    assert "12,879,925,248 active" in printed("presets 8x7b")


def test_two_models_side_by_side() -> None:
    line = "compare gpt2 gpt2-large --infer --seq 512 --gpu 24GiB"
    said, found = printed(line), json.loads(printed(f"{line} --json"))
    a, b = (estimate(n, "infer", 1, 512, gpu="24GiB") for n in ("gpt2", "gpt2-large"))
    assert found["a"] == json.loads(json.dumps(as_dict(a)))
    assert found["ratio"]["peak"] == b.memory.peak / a.memory.peak
    assert found["ratio"]["gradients"] is None
    rows = {line.split()[0]: line.split()[1:] for line in said.splitlines()[3:]}
    total = b.parameters.total
    assert rows["parameters"] == [
        "124,439,808",
        f"{total:,}",
        f"{total / 124439808:.3g}×",
    ]
    assert "gradients" not in rows
    assert "FLOPs of a step" in printed("compare gpt2 gpt2-large")


def test_colour_only_where_it_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    for env, coloured in (({}, True), ({"NO_COLOR": "1"}, False)):
        done = CliRunner().invoke(main, ["estimate", "gpt2"], color=True, env=env)
        assert ("\x1b[36m" in done.stdout) is coloured
    plain = process("-m", "tfdoc", "estimate", "gpt2")
    assert "\x1b" not in plain.stdout


def test_ascii_where_blocks_cannot_be_printed() -> None:
    done = process(
        "-m", "tfdoc", "estimate", "gpt2", "--explain", PYTHONIOENCODING="ascii"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.isascii()
    assert "####" in done.stdout
    assert "1 x " in done.stdout


def test_bars_are_as_long_as_their_shares() -> None:
    assert Look().bar(0.5, 10) == "█████"
    assert Look().bar(0.5625, 4) == "██▎"
    assert Look().bar(0, 10) == ""
    assert Look(blocks=False).bar(0.26, 10) == "###"


def test_the_report_of_a_notebook_is_escaped() -> None:
    config = {"model_type": "gpt2", "n_layer": 2}
    found = estimate(config, gpu="24GiB")
    table = html(found)
    assert table.count("<tr>") == len(found.memory.at_peak) + 2
    assert f"{found.memory.peak:,} bytes; " in table
    evil = as_dict(found) | {"steps": (), "model": "<script>"}
    named = type(found)(**{**vars(found), "model": evil["model"]})
    assert "<script>" not in html(named)
    assert "&lt;script&gt;" in html(named)
    assert text(found).startswith("GPT2LMHeadModel: ")


# What it refuses

USAGE = [
    ("estimate", "Missing argument 'MODEL'"),
    ("estimate gpt2 --batch 0", "0 is not from 1 to 1,000,000,000"),
    ("estimate gpt2 --batch -4", "-4 is not from 1"),
    ("estimate gpt2 --batch 1.5", "'1.5' is not a valid integer"),
    ("estimate gpt2 --batch nan", "'nan' is not a valid integer"),
    ("estimate gpt2 --batch inf", "'inf' is not a valid integer"),
    (f"estimate gpt2 --seq {10**30}", "is not from 1"),
    ("estimate gpt2 --seq many", "'many' is not a valid integer"),
    ("estimate gpt2 --accumulate 0", "0 is not from 1"),
    ("estimate gpt2 --infer --requests 0", "0 is not from 1"),
    ("estimate gpt2 --lora 0", "0 is not from 1"),
    ("estimate gpt2 --lora qv", "'qv' is not a valid integer"),
    ("estimate gpt2 --precision fp8", "'fp8' is not one of 'fp32', 'bf16', 'amp'"),
    ("estimate gpt2 --attn flash", "'flash' is not one of 'eager', 'sdpa'"),
    ("estimate gpt2 --quant int4", "'int4' is not one of 'none', 'int8', 'nf4'"),
    ("estimate gpt2 --optim lion", "'lion' is not one of"),
    ("estimate gpt2 --train --infer", "--train and --infer exclude each other"),
    ("estimate gpt2 --logits last", "training needs all"),
    ("estimate gpt2 --train --logits last", "training needs all"),
    ("estimate gpt2 --lora-targets qv", "--lora-targets needs --lora"),
    ("estimate gpt2 --infer --optim sgd", "--optim says something of --train only"),
    ("estimate gpt2 --infer --accumulate 2", "--accumulate says something of --train"),
    ("estimate gpt2 --infer --checkpointing", "--checkpointing says something of"),
    ("estimate gpt2 --requests 4", "--requests says something of --infer only"),
    ("estimate gpt2 --kv-dtype fp8", "--kv-dtype says something of --infer only"),
    ("estimate gpt2 --overhead 3", "'3' is no size such as 1GiB"),
    ("estimate gpt2 --overhead -1GiB", "'-1GiB' is no size"),
    ("estimate gpt2 --overhead nanGiB", "'nanGiB' is no size"),
    ("estimate gpt2 --overhead 9999999TiB", "is more than"),
    ("estimate gpt2 --bacth 3", "--batch"),
    ("estimate gpt2 gpt2", "unexpected extra argument"),
    ("compare gpt2", "Missing argument 'MODEL_B'"),
    ("compare gpt2 gpt2 --trace", "No such option"),
    ("estimat gpt2", "No such command 'estimat'"),
]
REFUSED = [
    ("estimate gpt3", "config='gpt3' is no preset, and there is no file gpt3; did you"),
    ("estimate no/config.json", "is no preset, and there is no file no/config.json"),
    ("compare gpt2 gpt3", "config='gpt3' is no preset"),
    ("estimate gpt2 --gpu h999", "gpu='h999' is no"),
    ("estimate gpt2 --gpu -24GiB", "got '-24GiB'"),
    ("estimate gpt2 --architecture LlamaForCausalLM", "is no class of"),
    ("estimate gpt2 --lora 8 --lora-targets q_prj", "names no linear layer of"),
    ("presets mixtrl-8x7b", "no preset has 'mixtrl-8x7b' in its name or type; did you"),
]
CONFIGS = [
    ('{"model_type": "llama"', "is not JSON: Expecting ',' delimiter in line 1"),
    ("", "is not JSON: Expecting value"),
    ("[1, 2]", "must hold an object, got list"),
    ("{}", "config has no model_type"),
    ('{"model_type": 3}', "model_type must be a string, got 3"),
    ('{"model_type": "lama"}', "model_type='lama' is not known; did you mean 'llama'"),
    ('{"a": ' * 10**5 + "1" + "}" * 10**5, "is nested too deeply"),
    ('{"model_type": "llama", "vocab_size": NaN}', "positive integer, got nan"),
    ('{"model_type": "llama", "vocab_size": -1}', "vocab_size must be at least 1, got -1"),
    ('{"model_type": "llama", "vocab_size": "1"}', "vocab_size must be a positive integer"),
    ('{"model_type": "llama", "vocab_size": 1e400}', "positive integer, got inf"),
    ('{"model_type": "llama", "vocab_size": ' + "9" * 5000 + "}", "cannot be read: "),
    ('{"model_type": "llama", "vocab_size": ' + "9" * 4000 + "}", "vocab_size=999"),
    ('{"model_type": "llama", "hiden_size": 8}', "did you mean 'hidden_size'"),
    ('{"model_type": "deepseek_v2"}', "num_experts_per_tok must be a positive integer"),
    (b"\xff\xfe\x00", "is not text in UTF-8"),
    ('{"model_type": "llama", "\\nx\\ty": 1}', "is not known for model_type='llama'"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "message"), USAGE, ids=lambda x: x[:40])
def test_wrong_usage_is_told(line: str, message: str) -> None:
    done = run(line)
    assert (done.exit_code, done.stdout) == (2, "")
    assert message in done.stderr
    assert "Usage: " in done.stderr


def refused(line: str, message: str) -> None:
    done = run(line)
    assert (done.exit_code, done.stdout) == (2, ""), done.output
    assert done.stderr.startswith("tfdoc: error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert len(done.stderr) < 700


@pytest.mark.parametrize(("line", "message"), REFUSED, ids=lambda x: x[:40])
def test_what_the_package_refuses_is_one_line(line: str, message: str) -> None:
    refused(line, message)


@pytest.mark.parametrize(("content", "message"), CONFIGS, ids=range(len(CONFIGS)))
def test_wrong_files_are_one_line(
    tmp_path: Path, content: str | bytes, message: str
) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    refused(f"estimate {tmp_path}", message)


def test_a_folder_without_a_config_and_an_unreadable_name(tmp_path: Path) -> None:
    refused(f"estimate {tmp_path}", "there is no file ")
    refused(f"estimate {'x' * 5000}", "")


def test_a_process_refuses_alike() -> None:
    for line in (*USAGE[1:2], *REFUSED[:2]):
        done = process("-m", "tfdoc", *line[0].split())
        assert (done.returncode, done.stdout) == (2, "")
        assert line[1] in done.stderr
        assert "Traceback" not in done.stderr


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing: dict[str, int] = {}
    for bug in (lambda: nothing["key"], lambda: int("x"), lambda: len(3)):  # type: ignore[arg-type]
        monkeypatch.setattr(tfdoc.cli, "estimated", lambda *_, bug=bug, **__: bug())
        done = run("estimate gpt2")
        assert isinstance(done.exception, (KeyError, TypeError, ValueError))
        assert "tfdoc: error" not in done.stderr


def test_a_closed_pipe_is_quiet() -> None:
    code = (
        "import subprocess, sys;"
        "p = subprocess.Popen([sys.executable, '-m', 'tfdoc', 'presets'],"
        " stdout=subprocess.PIPE, stderr=subprocess.PIPE);"
        "p.stdout.close(); sys.stdout.write(p.stderr.read().decode())"
    )
    assert fresh(code) == ""


# Rehearsing


def test_a_trace_stands_beside_the_closed_form() -> None:
    line = "estimate gpt2 --batch 2 --seq 64 --checkpointing --trace"
    said, found = printed(line), json.loads(printed(f"{line} --json"))
    seen, ours = found["trace"], found["memory"]
    assert list(seen["peaks"]) == ["forward", "loss", "backward", "step"]
    assert sum(seen["at_peak"].values()) == seen["peak"] == max(seen["peaks"].values())
    assert seen["flops"]["forward"] == found["flops"]["forward"]
    assert f"{seen['peak']:,}" in said
    assert f"{ours['peak'] - seen['peak']:+,}" in said


@pytest.mark.parametrize(
    "line",
    [
        "bert-base-uncased --attn eager --seq 64",
        "t5-base --seq 64 --precision amp",
        "gpt2 --infer --logits last --seq 64",
        "gpt2 --infer --precision amp --seq 64",
        "gpt2 --infer --precision fp32 --kv-dtype fp32 --seq 64",
        "gpt2 --architecture ForSequenceClassification --seq 64 --optim none",
        "gpt2 --architecture ForQuestionAnswering --seq 64 --optim sgd",
    ],
)
def test_other_models_are_rehearsed(line: str) -> None:
    found = json.loads(printed(f"estimate {line} --trace --json"))
    assert found["trace"]["at_peak"]["parameters"] >= 2 * found["parameters"]["total"]


def test_adapters_are_rehearsed() -> None:
    line = "estimate gpt2 --lora 8 --lora-targets qv --seq 64 --trace --json"
    found = json.loads(printed(line))
    extra = found["trace"]["at_peak"]["parameters"] - 2 * found["parameters"]["total"]
    assert 0 <= extra - 2 * found["lora"]["trainable"] < 512 * 200
    # The loss lies inside the model that peft wraps, and is a moment all the same.
    for moment, peak in found["memory"]["peaks"].items():
        assert found["trace"]["peaks"][moment] == pytest.approx(peak, rel=1e-3)


UNTRACED = [
    ("gpt2 --quant nf4 --infer", "--trace cannot run --quant nf4"),
    ("gpt2 --optim adamw8bit", "--trace cannot run --optim adamw8bit"),
    ("gpt2 --accumulate 4", "--trace cannot run --accumulate 4"),
    ("gpt2 --infer --requests 3", "--trace cannot run --requests 3"),
    ("gpt2 --infer --kv-dtype fp8", "--trace cannot run --kv-dtype fp8 at --precision"),
    (
        "t5-base --infer --logits last --seq 64",
        "what T5ForConditionalGeneration does in transformers: it computes",
    ),
    ("bert-base-uncased --architecture ForPreTraining --seq 64", "has no labels"),
]


@pytest.mark.parametrize(("line", "message"), UNTRACED, ids=lambda x: x[:40])
def test_what_cannot_be_rehearsed_is_told(line: str, message: str) -> None:
    refused(f"estimate {line} --trace", message)


@pytest.mark.parametrize("name", ["torch", "transformers"])
def test_a_trace_without_its_packages_says_so(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "tfdoc._trace", raising=False)
    monkeypatch.setitem(sys.modules, name, None)
    refused("estimate gpt2 --trace", f"but {name} is not installed; pip install torch")


# How it starts


def completed(*words: str) -> list[str]:
    complete = ShellComplete(main, {}, "tfdoc", "_TFDOC_COMPLETE")
    items = complete.get_completions(list(words[:-1]), words[-1])
    return [item.value for item in items if item.type == "plain"]


def test_names_complete() -> None:
    assert completed("") == ["compare", "estimate", "presets"]
    assert completed("estimate", "Mixtral") == ["mixtral-8x7b", "mixtral-8x22b"]
    assert completed("compare", "gpt2", "gpt2-m") == ["gpt2-medium"]
    assert completed("estimate", "gpt2", "--prec") == ["--precision"]
    assert completed("estimate", "gpt2", "--quant", "n") == ["none", "nf4"]
    assert completed("estimate", "gpt2", "--gpu", "h")
    said = printed("--help")
    for shell in ("bash", "zsh", "fish"):
        assert f"_TFDOC_COMPLETE={shell}_source" in said


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_are_printed(shell: str) -> None:
    code = "from tfdoc.cli import main; main(prog_name='tfdoc')"
    done = process("-c", code, _TFDOC_COMPLETE=f"{shell}_source")
    assert done.returncode == 0
    assert f"{shell}_complete" in done.stdout


ESTIMATE = (
    "import sys, time; sys.argv = ['tfdoc', 'estimate', 'gpt2'];"
    "sys.stdout = sys.stderr; from tfdoc.cli import main\n"
    "try: main()\n"
    "except SystemExit: sys.stdout = sys.__stdout__\n"
)


def test_an_estimate_imports_no_torch() -> None:
    names = fresh(f"{ESTIMATE}print(*sys.modules)").split()
    assert not {"torch", "numpy", "sympy", "transformers", "tfdoc.rehearsal"} & {*names}
    assert (
        "click"
        not in fresh("import sys, tfdoc, tfdoc.cost; print(*sys.modules)").split()
    )


@pytest.mark.measures
def test_an_estimate_starts_in_a_tenth_of_a_second() -> None:
    """CPU time above that of Python alone."""
    ours = min(float(fresh(ESTIMATE + CPU_TIME)) for _ in range(7))
    assert ours - bare() < 0.1 * slowness()


def test_the_version_is_that_of_the_package() -> None:
    assert printed("--version") == f"tfdoc, version {tfdoc.__version__}\n"
