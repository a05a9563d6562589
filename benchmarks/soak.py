# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""A training that is killed again and again, beside one that nobody disturbs: is it the same to the last bit?

    python benchmarks/soak.py                   # 50 kills; `make soak`
    python benchmarks/soak.py --quick           # 3 kills and no result file: does it work?

A tiny model with momentum teacher, queue, dropout, augmentation and masking trains for 12 steps, saves a checkpoint at
every second one, keeps two, and pushes each to a Hub on loopback in the background. A process that runs it is killed
(SIGKILL) at a moment drawn by the seed: within a phase (starting and loading; writing a checkpoint; sealing it;
deleting an old one; pushing), for so long as that took the undisturbed run, or anywhere. What counts is where it was
when it died, which it writes into shared memory and nobody changes afterwards. Then another process resumes it, by
`resume_from_checkpoint=True`, at once: the lock on the folder must be free. So on, until the run has ended; then its
log, step by step, and every tensor of its last checkpoint are compared with those of the undisturbed run, and every
commit of its repository is read: each must hold one whole checkpoint, and the last one the last. Every other run has a
data worker, whose orphans stay behind. Processes are forked off one that has imported everything and computed nothing.
Needs Linux. Writes benchmarks/results/soak.md, and ends with 1 if anything differs.
"""

import argparse
import contextlib
import ctypes
import json
import multiprocessing
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


PORT = free_port()
# Before the first import of the libraries, which read them once.
os.environ |= {
    "HF_ENDPOINT": f"http://127.0.0.1:{PORT}",
    "HF_HUB_DISABLE_XET": "1",
    "HF_HUB_OFFLINE": "0",
    "HF_TOKEN": "hf_owner",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}

import torch  # noqa: E402
import xxhash  # noqa: E402
from common import table, write_results  # noqa: E402
from datasets import Dataset, Features, Image, Value  # noqa: E402
from PIL import Image as PILImage  # noqa: E402
from transformers import BertTokenizer, BlipImageProcessor, TrainerCallback, set_seed  # noqa: E402

import trainer.saving  # noqa: E402
from modeling_sacl import SaclConfig, SaclForPreTraining, SaclProcessor  # noqa: E402
from tests.hub_server import Account, Hub, Repository, Storage  # noqa: E402
from trainer import SaclTrainer, SaclTrainingArguments, verify_checkpoint  # noqa: E402
from trainer.checkpoints import MANIFEST_NAME, last_checkpoint  # noqa: E402
from trainer.sharing import HubRepository  # noqa: E402


COLORS = ("red", "green", "blue", "black", "yellow", "orange")
SIZES = ("tiny", "small", "large", "huge")

# Where a process can be, in the order of its life, and how often each is aimed at.
PHASES = {"starting": 3, "training": 0, "writing": 6, "sealing": 3, "deleting": 2, "pushing": 6}
ANYWHERE = 4
STATE_FILES = (
    *("model.safetensors", "sacl_training_state.safetensors"),
    *("optimizer.pt", "scheduler.pt", "rng_state.pth"),
)


# What is trained -------------------------------------------------------------------------------------------------


@dataclass
class Material:
    """A model that nobody has trained yet, its processor, and pairs."""

    model: SaclForPreTraining
    processor: SaclProcessor
    pairs: Dataset


def make_material() -> Material:
    set_seed(0)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "square", *SIZES, *COLORS]
    tokenizer = BertTokenizer(vocab={word: index for index, word in enumerate(words)}, model_max_length=16)
    tiny = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    config = SaclConfig(
        text_config={**tiny, "vocab_size": len(words)},
        vision_config={**tiny, "image_size": 32, "patch_size": 8, "hidden_dropout": 0.1},
        fusion_encoder_config={"num_hidden_layers": 1},
        projection_dim=16,
    )
    names = [(size, color) for size in SIZES for color in COLORS]
    columns = {
        "image": [square(index // len(COLORS), color) for index, (_, color) in enumerate(names)],
        "caption": [f"a {size} {color} square" for size, color in names],
        "pair_id": range(len(names)),
    }
    features = Features({"image": Image(), "caption": Value("string"), "pair_id": Value("int64")})
    return Material(
        model=SaclForPreTraining(config),
        processor=SaclProcessor(BlipImageProcessor(size={"height": 32, "width": 32}), tokenizer),
        pairs=Dataset.from_dict(columns, features=features),
    )


def square(size: int, color: str) -> PILImage.Image:
    image = PILImage.new("RGB", (32, 32), "white")
    side = 6 + 8 * size
    image.paste(PILImage.new("RGB", (side, side), color), ((32 - side) // 2, (32 - side) // 2))
    return image


def build(material: Material, run: "Run", steps: int) -> SaclTrainer:
    set_seed(0)
    return SaclTrainer(
        model=material.model,
        args=SaclTrainingArguments(
            str(run.folder),
            use_cpu=True,
            per_device_train_batch_size=4,
            max_steps=steps,
            logging_steps=1,
            save_steps=2,
            save_total_limit=2,
            learning_rate=1e-3,
            momentum=0.9,
            queue_size=7,
            report_to="none",
            disable_tqdm=True,
            dataloader_num_workers=run.workers,
            push_to_hub=True,
            hub_model_id=run.repository,
            hub_strategy="checkpoint",
            hub_always_push=True,
        ),
        train_dataset=material.pairs,
        processing_class=material.processor,
    )


# Where a process is ----------------------------------------------------------------------------------------------


class Whereabouts:
    """Memory that a process shares with the one that kills it: in which phases it is, how often, and how long."""

    def __init__(self):
        self._inside, self._entered = (multiprocessing.RawArray(ctypes.c_long, len(PHASES)) for _ in range(2))
        self._seconds = multiprocessing.RawArray(ctypes.c_double, len(PHASES))
        self._places = {phase: place for place, phase in enumerate(PHASES)}

    @contextlib.contextmanager
    def inside(self, phase: str) -> Iterator[None]:
        place, started = self._places[phase], time.monotonic()
        self._entered[place] += 1
        self._inside[place] = 1
        yield
        self._inside[place] = 0
        self._seconds[place] = time.monotonic() - started

    def noted(self, phase: str, function: Callable) -> Callable:
        def noted(*arguments: Any, **options: Any) -> Any:
            with self.inside(phase):
                return function(*arguments, **options)

        return noted

    def entered(self, phase: str) -> int:
        return self._entered[self._places[phase]]

    def seconds(self, phase: str) -> float:
        """How long the phase took the last time."""
        return self._seconds[self._places[phase]]

    def now(self) -> set[str]:
        return {phase for phase, place in self._places.items() if self._inside[place]}


def watch(trained: SaclTrainer, where: Whereabouts) -> None:
    """Has the phases of a training noted; "starting" is entered already."""
    trainer.saving.seal_checkpoint = where.noted("sealing", trainer.saving.seal_checkpoint)
    trainer.saving.delete_old_checkpoints = where.noted("deleting", trainer.saving.delete_old_checkpoints)
    HubRepository.push = where.noted("pushing", HubRepository.push)
    trained._save_checkpoint = where.noted("writing", trained._save_checkpoint)


class Started(TrainerCallback):
    """The end of "starting", and the phase that is all the rest."""

    def __init__(self, phases: contextlib.ExitStack, where: Whereabouts):
        self.phases = phases
        self.where = where

    def on_step_begin(self, args, state, control, **kwargs):
        if not self.where.entered("training"):
            self.phases.close()
            self.phases.enter_context(self.where.inside("training"))


# One run ---------------------------------------------------------------------------------------------------------


@dataclass
class Run:
    """A folder, a repository, and what the processes that train into it have done."""

    folder: Path
    workers: int
    began_anew: int = 0
    resumed: int = 0
    unsealed: int = 0
    died: list[set[str]] = field(default_factory=list)

    @property
    def repository(self) -> str:
        return f"user/{self.folder.name}"

    def checkpoints(self) -> list[Path]:
        return sorted(self.folder.glob("checkpoint-*"))

    def log(self) -> list[dict]:
        last = last_checkpoint(self.folder)
        return json.loads(Path(str(last), "trainer_state.json").read_text())["log_history"]

    def state(self) -> dict[str, str]:
        """The hashes of everything that the run would go on from."""
        files = json.loads(Path(str(last_checkpoint(self.folder)), MANIFEST_NAME).read_text())["files"]
        return {name: files[name]["xxh3_128"] for name in STATE_FILES}


def start(material: Material, run: Run, steps: int, where: Whereabouts) -> int:
    """Forks a process that begins the run, or resumes it; returns its id."""
    resume = any((folder / MANIFEST_NAME).exists() for folder in run.checkpoints())
    run.resumed += resume
    run.began_anew += not resume
    pid = os.fork()
    if pid != 0:
        return pid
    try:
        with open(run.folder.with_suffix(".log"), "a") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        with contextlib.ExitStack() as phases:
            phases.enter_context(where.inside("starting"))
            trained = build(material, run, steps)
            watch(trained, where)
            trained.add_callback(Started(phases, where))
            trained.train(resume_from_checkpoint=resume)
        os._exit(0)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(1)


def ended(pid: int) -> int | None:
    """The exit code of a process; `None` while it lives."""
    done, status = os.waitpid(pid, os.WNOHANG)
    return None if done == 0 else os.waitstatus_to_exitcode(status)


class Killer:
    """Kills processes at moments drawn by a seed, so long as there are any kills left."""

    def __init__(self, seed: int, kills: int, usual: Whereabouts):
        self.random = random.Random(seed)
        self.left = kills
        # How long each phase took when nobody disturbed it.
        self.seconds = {phase: usual.seconds(phase) for phase in PHASES}

    def follow(self, pid: int, where: Whereabouts) -> int:
        """Waits for a process, or kills it; returns its exit code."""
        phase = self.random.choices([*PHASES, None], [*PHASES.values(), ANYWHERE])[0]
        turn = self.random.randint(1, 3) if phase not in (None, "starting") else 1
        lasts = self.seconds["starting"] + self.seconds["training"] if phase is None else self.seconds[phase]
        moment = self.random.uniform(0, lasts)
        reached = None
        while (code := ended(pid)) is None:
            if self.left > 0 and reached is None and (phase is None or where.entered(phase) >= turn):
                reached = time.monotonic()
            if reached is not None and time.monotonic() >= reached + moment:
                os.kill(pid, signal.SIGKILL)
                _, status = os.waitpid(pid, 0)
                code = os.waitstatus_to_exitcode(status)
                self.left -= code == -signal.SIGKILL
                return code
            time.sleep(0.0005)
        return code


def finish(material: Material, run: Run, steps: int, killer: Killer | None, where: Whereabouts | None = None) -> None:
    """Trains until the run has ended, killed and resumed as often as it takes."""
    while True:
        at = Whereabouts() if where is None else where
        pid = start(material, run, steps, at)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) if killer is None else killer.follow(pid, at)
        if code == 0:
            return
        if code != -signal.SIGKILL:
            raise SystemExit(f"A process ended with {code}: see {run.folder.with_suffix('.log')}")
        run.died.append(at.now())
        run.unsealed += any(not (folder / MANIFEST_NAME).exists() for folder in run.checkpoints())


# What has come of it ---------------------------------------------------------------------------------------------


def serve(root: str, seconds: float) -> None:
    """A Hub, in a process of its own, that takes its time."""
    with Hub(root, {"hf_owner": Account("user")}, port=PORT) as hub:
        for path in ("/preupload/", "/commit/"):
            hub.fail("POST", path, delay=seconds, times=-1)
        signal.pause()


def wait_for_hub() -> None:
    for _ in range(600):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", PORT), timeout=1):
            return
        time.sleep(0.1)
    raise SystemExit("The Hub on loopback did not start.")


def pushed(root: str, run: Run) -> tuple[int, int, bool]:
    """How many commits a run has made, how many of them do not hold one whole checkpoint, and if the last is ours."""
    storage = Storage(root)
    repository: Repository = storage.repository("model", run.repository)
    commits = [commit["files"] for commit in list(repository.history("main"))[:-1]]
    broken = sum(not is_whole(storage, files) for files in commits)
    ours = (Path(str(last_checkpoint(run.folder))) / "model.safetensors").read_bytes()
    return len(commits), broken, storage.get(commits[0]["model.safetensors"]["sha256"]) == ours


def is_whole(storage: Storage, files: dict[str, dict]) -> bool:
    """Whether the checkpoint of a commit is as its manifest says, and its model the one that is pushed beside it."""
    found = {name.removeprefix("last-checkpoint/"): entry for name, entry in files.items() if "checkpoint/" in name}
    expected = json.loads(storage.get(found.pop(MANIFEST_NAME)["sha256"]))["files"]
    hashes = {name: xxhash.xxh3_128_hexdigest(storage.get(entry["sha256"])) for name, entry in found.items()}
    same = found["model.safetensors"]["sha256"] == files["model.safetensors"]["sha256"]
    return same and hashes == {name: entry["xxh3_128"] for name, entry in expected.items()}


@dataclass
class Report:
    """Counts over all runs."""

    runs: list[Run]
    steps: int
    other_logs: int
    other_states: int
    commits: int
    broken_commits: int
    not_pushed: int
    seconds: float

    def is_good(self) -> bool:
        return not (self.other_logs or self.other_states or self.broken_commits or self.not_pushed)

    def lines(self) -> list[str]:
        died = [phases for run in self.runs for phases in run.died]
        # The innermost: a checkpoint is also written while it is sealed, and so on.
        order = ["deleting", "sealing", "writing", "starting", "training"]
        where = Counter(next((phase for phase in order if phase in phases), "ending") for phases in died)
        pushing = Counter(
            next((phase for phase in order if phase in phases), "ending") for phases in died if "pushing" in phases
        )
        names = {
            "starting": "starting, loading what to resume from",
            "training": "training, between checkpoints",
            "writing": "writing a checkpoint",
            "sealing": "sealing a checkpoint",
            "deleting": "deleting an old checkpoint",
            "ending": "ending",
        }
        rows = [(names[phase], str(where[phase]), str(pushing[phase])) for phase in names if where[phase]]
        rows.append(("all", str(len(died)), str(pushing.total())))
        resumed, anew = sum(run.resumed for run in self.runs), sum(run.began_anew - 1 for run in self.runs)
        return [
            *table(("killed while", "kills", "of them while pushing"), rows),
            "",
            f"- {len(self.runs)} runs of {self.steps} steps, killed {len(died)} times, went on {resumed} times from a "
            f"checkpoint and {anew} times from the beginning, before there was any.",
            f"- {sum(run.unsealed for run in self.runs)} kills left a checkpoint behind that was not sealed; each was "
            "passed over.",
            f"- Runs whose log (losses, gradient norm, learning rate, at every step) differs from the undisturbed "
            f"run's: {self.other_logs}.",
            f"- Runs whose last checkpoint (weights, teacher, queue, optimiser, schedule, random state) differs from "
            f"it in a bit: {self.other_states}.",
            f"- {self.commits} commits were pushed; {self.broken_commits} do not hold one whole checkpoint. Runs "
            f"whose last commit is not of their last checkpoint: {self.not_pushed}.",
            f"- {self.seconds / 60:.1f} minutes.",
        ]


def campaign(folder: Path, kills: int, steps: int, seed: int) -> Report:
    began = time.monotonic()
    root = str(folder / "hub")
    multiprocessing.get_context("fork").Process(target=serve, args=(root, 0.15), daemon=True).start()
    wait_for_hub()
    material, usual = make_material(), Whereabouts()
    undisturbed = Run(folder / "undisturbed", workers=0)
    finish(material, undisturbed, steps, None, usual)
    log, state = undisturbed.log(), undisturbed.state()
    killer, runs = Killer(seed, kills, usual), []
    report = Report(runs, steps, 0, 0, 0, 0, 0, 0.0)
    while killer.left > 0:
        run = Run(folder / f"run-{len(runs)}", workers=len(runs) % 2)
        finish(material, run, steps, killer)
        runs.append(run)
        verify_checkpoint(str(last_checkpoint(run.folder)))
        commits, broken, is_last = pushed(root, run)
        report.other_logs += run.log() != log
        report.other_states += run.state() != state
        report.commits += commits
        report.broken_commits += broken
        report.not_pushed += not is_last
        print(f"{run.folder.name}: {len(run.died)} kills, {killer.left} left", file=sys.stderr, flush=True)
    report.seconds = time.monotonic() - began
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50, help="how many processes are killed")
    parser.add_argument("--steps", type=int, default=12, help="steps of a run")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments")
    parser.add_argument("--quick", action="store_true", help="3 kills, runs of 6 steps, no result file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    kills, steps = (3, 6) if args.quick else (args.kills, args.steps)
    report = campaign(folder, kills, steps, args.seed)
    if args.quick:
        print("\n".join(report.lines()))
    else:
        write_results(__file__, "A training that is killed and resumed", report.lines(), threads=1)
    if not report.is_good():
        raise SystemExit(f"Killed and resumed, the training is another one: see {folder}")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
