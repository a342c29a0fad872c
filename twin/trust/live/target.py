"""What is verified where: the deployment itself if its hardware is here, else a stand-in on what is."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass, replace
from pathlib import Path

from twin.base import InputError
from twin.cluster.deploy import fleet_of
from twin.cluster.simulation import Fleet
from twin.plan.option import vllm_command
from twin.search.space import Candidate
from twin.spec.engine import EngineSettings
from twin.spec.hardware import HardwareProfile, load_profile, profile_names
from twin.spec.model import ModelSpec
from twin.spec.scenario import Deployment, Scenario
from twin.spec.versions import VERSIONS
from twin.trust.live.metrics import ServerFacts
from twin.trust.live.runtime import CPU_ENV, ENV, Runtime
from twin.trust.live.shapes import hf_config, stand_in

STAND_INS: dict[str, tuple[str, dict[str, int]]] = {
    "cpu": ("small", {"max_model_len": 2560, "max_num_batched_tokens": 1024, "max_num_seqs": 64}),
    "gpu": ("8b", {"max_model_len": 8704, "max_num_batched_tokens": 8192, "max_num_seqs": 512}),
}
"""By device: the shape that stands in, and the most that the twin's calibration of such engines went to."""
CPU_BLOCK_SIZE = 128  # vLLM's on a CPU, which prefers multiples of 32
EXTRA_FLAGS = ("block_size", "long_prefill_token_threshold", "scheduling_policy", "enable_chunked_prefill")


@dataclass(frozen=True)
class Target:
    """One replica that runs here. ``kind``: the plan itself, a stand-in for it, or a server that somebody else runs.

    ``words`` say so; ``notes`` what was changed.
    """

    kind: str
    scenario: Scenario
    model: ModelSpec
    profile: HardwareProfile
    words: str
    notes: tuple[str, ...] = ()

    def known(self, facts: ServerFacts) -> Target:
        """With what the running engine says of its KV cache in place of what would be computed."""
        update: dict[str, object] = {"num_gpu_blocks": facts.num_gpu_blocks, "block_size": facts.block_size}
        update |= {
            "enable_prefix_caching": facts.enable_prefix_caching,
            "vllm_version": self.version(facts.vllm_version),
        }
        engine = self.scenario.engine.model_copy(update=update)
        return replace(self, scenario=changed(self.scenario, engine=engine))

    def version(self, running: str) -> str:
        """The modelled release that the running one is, else the scenario's."""
        short = ".".join(running.split(".")[:2])
        return short if short in VERSIONS else self.scenario.engine.vllm_version

    def fleet(self) -> Fleet:
        """The replica, as it is simulated."""
        return fleet_of(self.scenario)

    def env(self) -> dict[str, str]:
        """Of the server: nothing is fetched, and on a CPU as many threads as the profile has cores."""
        if self.profile.device == "gpu":
            return dict(ENV)
        return ENV | CPU_ENV | {"OMP_NUM_THREADS": str(int(self.profile.facts.num_sms.value))}

    def flags(self) -> list[str]:
        """The deployment's flags, as every plan prints them, and those of its settings that differ from vLLM's."""
        where, settings = self.scenario.deployment, self.scenario.engine
        if settings.baseline is not None:
            raise InputError(f"vLLM has no {settings.baseline}: a baseline cannot be verified on it", where="engine")
        config = self.fleet().config
        candidate = Candidate(
            where.gpu, where.tensor_parallel_size, 1, where.quantization, where.kv_cache_dtype,
            config.max_num_seqs, config.max_num_batched_tokens,
        )  # fmt: skip
        assert settings.gpu_memory_utilization is not None
        words = shlex.split(vllm_command("model", candidate, config, settings.gpu_memory_utilization))[3:]
        for name in EXTRA_FLAGS:
            value = getattr(settings, name)
            if value != EngineSettings.model_fields[name].default:
                words += _flag(name, value)
        if settings.num_gpu_blocks is not None:
            words += ["--num-gpu-blocks-override", str(settings.num_gpu_blocks)]
        words += settings.lever_flags()
        if self.profile.device == "cpu":
            words += [] if settings.enforce_eager else ["--enforce-eager"]
        elif not settings.async_scheduling:
            words.append("--no-async-scheduling")
        return words


def _flag(name: str, value: object) -> list[str]:
    flag = "--" + name.replace("_", "-")
    if isinstance(value, bool):
        return [flag if value else flag.replace("--", "--no-", 1)]
    return [flag, str(value)]


def matching_profiles(here: Runtime) -> list[str]:
    """Profiles of the device that vLLM runs on here, by the name that it reports."""
    device = "gpu" if here.num_gpus else "cpu"
    found = []
    for name in profile_names():
        profile = load_profile(name)
        if profile.device == device and _folded(profile.label.partition(",")[0]) == _folded(here.name):
            found.append(name)
    return found


def _folded(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


def changed(scenario: Scenario, **fields: object) -> Scenario:
    """Another scenario: made anew, so that nothing derived from the old one's fields goes along."""
    return Scenario(**{name: getattr(scenario, name) for name in Scenario.model_fields} | fields)


def choose(scenario: Scenario, here: Runtime, folder: Path, profile: str | None = None) -> Target:
    """The deployment itself if its GPUs are here, else a stand-in on the profile that matches, or the one given.

    The model's ``config.json`` is written to ``folder``. Raises :class:`InputError` when no profile is of this machine.
    """
    known = matching_profiles(here)
    where = scenario.deployment
    asked = profile or (where.gpu if where.gpu in known else next(iter(known), None))
    if asked is None:
        what = f"no profile is of this machine ({here.name}): measure it with twin calibrate kernels and engine"
        raise InputError(f"{what}, or name one with --profile")
    same = where.hardware is None and load_profile(asked).digest() == scenario.profile.digest()
    own = same and where.tensor_parallel_size <= max(here.num_gpus, 1)
    target = _own(scenario) if own else _stand_in(scenario, asked, folder / "config.json")
    if own:
        write_config(target.model, folder)
    return target


def write_config(model: ModelSpec, folder: Path) -> Path:
    """``folder/config.json``, for a model with made-up weights."""
    path = folder / "config.json"
    path.write_text(json.dumps(hf_config(model)), encoding="utf-8")
    return path


def running(scenario: Scenario, facts: ServerFacts, base_url: str, profile: str | None = None) -> Target:
    """A server that somebody else runs, on what the scenario's deployment, or ``profile``, says.

    Raises :class:`InputError` where it is not one engine.
    """
    if facts.engines > 1:
        raise InputError(f"{facts.engines} engines are behind it; verify one replica at a time", where=base_url)
    where = scenario.deployment.model_copy(update={"replicas": 1, "gpu": profile or scenario.deployment.gpu})
    scenario = changed(scenario, deployment=where).resolved()
    words = (
        f"a running server, taken to be what the scenario says: {scenario.model_spec.name} on {scenario.profile.name}"
    )
    return Target("server", scenario, scenario.model_spec, scenario.profile, words)


def _own(scenario: Scenario) -> Target:
    one = changed(scenario, deployment=scenario.deployment.model_copy(update={"replicas": 1}))
    words = f"the deployment itself: {scenario.model_spec.name} on {scenario.profile.name}, with its own flags"
    return Target("plan", one, one.model_spec, one.profile, words)


def _stand_in(scenario: Scenario, profile_name: str, config: Path) -> Target:
    profile = load_profile(profile_name)
    shape, most = STAND_INS[profile.device]
    model = stand_in(scenario.model_spec, shape)
    write_config(model, config.parent)
    asked = scenario.engine
    limits = {name: min(limit, getattr(asked, name) or limit) for name, limit in most.items()}
    limits["max_num_batched_tokens"] = max(limits["max_num_batched_tokens"], limits["max_num_seqs"])
    own = ("num_gpu_blocks", "block_size", "async_scheduling", "gpu_memory_utilization", "max_num_active_seqs")
    threshold = min(asked.long_prefill_token_threshold, limits["max_model_len"])
    engine = asked.model_copy(update={**limits, **dict.fromkeys(own), "long_prefill_token_threshold": threshold})
    stand = changed(scenario, model=str(config), deployment=Deployment(gpu=profile_name), engine=engine).resolved()
    words = (
        f"the method and the scheduling, on a stand-in: {model.name} on {profile.name} in place of"
        f" {scenario.model_spec.name} on {scenario.profile.name}"
    )
    notes = [
        f"{name} {getattr(asked, name)} → {value}" for name, value in limits.items() if getattr(asked, name) != value
    ]
    return Target("stand-in", stand, stand.model_spec, profile, words, tuple(notes))
