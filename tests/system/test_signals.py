"""Signals that have to wait."""

import signal

import pytest

from pipelines.system.signals import undisturbed


def test_an_interrupt_waits_for_the_end_of_what_is_not_to_be_disturbed() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), undisturbed():
        signal.raise_signal(signal.SIGINT)
        done.append("all of it")
    assert done
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_signal_that_is_ignored_does_not_hide_the_next_one() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as nohup does with others
    try:
        with pytest.raises(KeyboardInterrupt), undisturbed():
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGTERM, before)
