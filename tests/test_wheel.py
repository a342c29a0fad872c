"""The wheel carries profiles, prices, models and scenarios, and works away from the checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_profiles_are_found_from_the_wheel(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = ["wheel", str(ROOT), "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path)]
    subprocess.run([*pip, *build], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    subprocess.run([*pip, "install", "--no-deps", "--target", str(site), str(wheel)], check=True)
    code = (
        "import json, twin; from twin.spec.hardware import profile_names; from twin.spec.model import load_model;"
        "from twin.spec.prices import load_price_book; from twin.base import data_dir;"
        "print(json.dumps([twin.__file__, profile_names(), load_model('Qwen/Qwen3-8B').name,"
        " load_price_book().price('h100_sxm', 'on_demand').value, len(list(data_dir('scenarios').glob('*.yaml')))]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        check=True,
    )
    home, profiles, model, price, scenarios = json.loads(done.stdout)
    assert Path(home).is_relative_to(site)
    assert {"a100_sxm", "b200_sxm", "h100_sxm", "h200_sxm", "l40s"} <= set(profiles)
    assert model == "Qwen/Qwen3-8B"
    assert price > 0
    assert scenarios >= 5
