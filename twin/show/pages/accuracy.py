"""The Accuracy page: how wrong the twin has been, what that means for a plan, and how wrong it is on one's own runs."""

from __future__ import annotations

import streamlit as st

from twin.base import TwinError
from twin.show import accuracy_charts, shell
from twin.show.formats import share
from twin.show.pages.judged import judge_upload
from twin.spec.accuracy import METRICS, PAGE, Accuracy, Errors, load_accuracy, quoted
from twin.spec.hardware import load_profile, profile_names
from twin.trust.accuracy import left_out
from twin.trust.accuracy_sources import drawn_from, kernels

VIEWS = ("What is known", "Judge it by your own measurements")


def page() -> None:
    shell.heading(
        "Accuracy", "How wrong the predictions have been, on what they were fitted to and on what they had not seen."
    )
    view = st.segmented_control("Show", VIEWS, default=VIEWS[0], key="view", bind="query-params", required=True)
    try:
        if view == VIEWS[1]:
            judge_upload()
        else:
            _known()
    except TwinError as error:
        shell.failed(error)


def _known() -> None:
    accuracy = load_accuracy()
    if accuracy is None:
        shell.nothing("No figures are shipped", "`twin accuracy --runs FILE` makes them of recorded measurements.")
        return
    shell.figures(key_figures(accuracy))
    st.caption(
        f"Mean absolute error relative to the measurement, over runs; made by twin accuracy ({accuracy.date}) from"
        f" {', '.join(source.file for source in accuracy.sources)}. All of it: {PAGE}."
    )
    profiles = [load_profile(name) for name in profile_names()]
    left, right = st.columns(2)
    with left:
        shell.chart(accuracy_charts.by_gpu(accuracy))
        shell.chart(accuracy_charts.coverage(accuracy))
    with right:
        shell.chart(accuracy_charts.unseen("gpu", left_out(profiles, "gpu")))
        shell.chart(accuracy_charts.unseen("layout", left_out(profiles, "layout")))
    _saturated(accuracy)
    st.subheader("What it means for a plan", anchor=False)
    st.caption("The sentence that a plan on each GPU carries.")
    for text, gpus in meanings(accuracy).items():
        st.markdown(f"- **{shell.plain(', '.join(gpus))}**: {shell.plain(text)}")
    with st.expander("Kernels: errors on shapes left out of the fit"):
        st.caption(
            "Mean absolute error of kernel times on serving shapes; for assumed GPUs, on GPUs of their class left out as a"
            " whole. A range is over precisions, head sizes or numbers of GPUs."
        )
        st.markdown(kernels(profiles))
    with st.expander("What was fitted on what, from which source and when"):
        st.markdown(drawn_from(profiles))
    shell.downloads(
        [shell.Download("Figures (JSON)", "accuracy.json", accuracy.model_dump_json(indent=2), "application/json")]
    )


def key_figures(accuracy: Accuracy) -> list[shell.Figure]:
    """What to expect where nothing was measured: of a GPU, and of a layout, that the fit had not seen."""
    found = []
    for said, errors in (("GPU", accuracy.unseen_gpu), ("layout", accuracy.unseen_layout)):
        for metric in accuracy_charts.SHOWN:
            size = None if errors is None else getattr(errors, metric)
            runs = "not measured" if errors is None else f"mean of {errors.n} runs, left out of the fit"
            found.append(
                shell.Figure(f"{metric.upper()}, unseen {said}", share(size, 1) + (" off" if size else ""), runs)
            )
    return found


def _saturated(accuracy: Accuracy) -> None:
    if accuracy.saturated is not None:
        st.info(
            f"**Saturated points stand apart** ({accuracy.saturated.n} runs): {_sizes(accuracy.saturated)}. Where requests"
            " wait for KV memory or a seat, a small error in the time of a step is a large one in waiting; plan with head-room."
        )


def _sizes(errors: Errors) -> str:
    known = {name.upper(): getattr(errors, name) for name in METRICS}
    return ", ".join(f"{name} {share(size, 1)} off" for name, size in known.items() if size is not None)


def meanings(accuracy: Accuracy) -> dict[str, list[str]]:
    """GPUs by the sentence of :func:`twin.spec.accuracy.quoted`, for profiles that are those which were judged."""
    found: dict[str, list[str]] = {}
    for profile in (load_profile(name) for name in profile_names()):
        if profile.device == "gpu":
            said = quoted(accuracy, profile)
            text = "nothing is known of this profile" if said is None else str(said["text"]).removesuffix(f". {PAGE}")
            found.setdefault(text, []).append(profile.name)
    return found
