"""Callers that wait for uploads and downloads, apart from any session."""

from __future__ import annotations

from concurrent.futures import Future

import pytest

from localstore.errors import OperationAborted
from localstore.sync.waits import Waits
from tests.unit.session_kit import in_thread, joined

DEVICE, OTHER = b"d" * 16, b"o" * 16


@pytest.fixture
def waits() -> Waits:
    return Waits()


def done(*futures: Future[bool]) -> list[bool]:
    return [future.done() for future in futures]


def test_an_upload_is_done_when_its_number_is_acknowledged(waits: Waits) -> None:
    second, third = waits.upload(2, DEVICE), waits.upload(3, DEVICE)
    waits.acknowledged(1)
    assert done(second, third) == [False, False]
    waits.acknowledged(2)
    assert done(second, third) == [True, False]
    waits.acknowledged(3)
    assert second.result(0) is third.result(0) is True


def test_one_acknowledgement_may_release_many(waits: Waits) -> None:
    uploads = [waits.upload(number, DEVICE) for number in (5, 1, 3, 3, 9)]
    waits.acknowledged(5)
    assert done(*uploads) == [True, True, True, True, False]


def test_acknowledgements_may_repeat_and_step_back(waits: Waits) -> None:
    upload = waits.upload(4, DEVICE)
    for number in (3, 3, 1, 4, 4, 2):
        waits.acknowledged(number)
    assert upload.result(0) is True


def test_a_download_is_done_by_a_pull_that_began_after_the_call(waits: Waits) -> None:
    began_before = waits.download_requests
    download = waits.download()
    waits.reached_head(began_before)
    assert done(download) == [False]
    waits.reached_head(waits.download_requests)
    assert download.result(0) is True


def test_a_pull_serves_the_calls_before_it_only(waits: Waits) -> None:
    early = [waits.download(), waits.download()]
    mark = waits.download_requests
    late = waits.download()
    waits.reached_head(mark)
    assert done(*early, late) == [True, True, False]


def test_uploads_and_downloads_do_not_release_each_other(waits: Waits) -> None:
    upload, download = waits.upload(1, DEVICE), waits.download()
    waits.reached_head(waits.download_requests)
    assert done(upload, download) == [False, True]
    other = waits.download()
    waits.acknowledged(10)
    assert done(upload, other) == [True, False]


def test_all_waits_can_be_broken_off(waits: Waits) -> None:
    pending = [waits.upload(1, DEVICE), waits.upload(2, DEVICE), waits.download()]
    error = OperationAborted("paused")
    waits.abort(error)
    assert [future.exception(0) for future in pending] == [error, error, error]


def test_what_was_broken_off_stays_so_and_later_waits_are_new(waits: Waits) -> None:
    broken = waits.upload(1, DEVICE)
    waits.abort(OperationAborted("paused"))
    later = waits.upload(1, DEVICE)
    waits.acknowledged(1)
    assert isinstance(broken.exception(0), OperationAborted)
    assert later.result(0) is True


def test_what_is_done_is_not_broken_off(waits: Waits) -> None:
    upload = waits.upload(1, DEVICE)
    waits.acknowledged(1)
    waits.abort(OperationAborted("paused"))
    assert upload.result(0) is True


def test_a_caller_may_give_up_at_any_time(waits: Waits) -> None:
    gone, stays = waits.upload(1, DEVICE), waits.upload(1, DEVICE)
    gone_too, stays_too = waits.download(), waits.download()
    assert gone.cancel()
    assert gone_too.cancel()
    waits.acknowledged(1)
    waits.abort(OperationAborted("paused"))
    assert stays.result(0) is True
    assert isinstance(stays_too.exception(0), OperationAborted)


def test_giving_up_again_and_again_leaves_nothing_behind(waits: Waits) -> None:
    for _ in range(1000):
        waits.upload(1, DEVICE).cancel()
        waits.download().cancel()
    upload, download = waits.upload(1, DEVICE), waits.download()
    assert len(waits) == 2
    waits.acknowledged(1)
    waits.reached_head(waits.download_requests)
    assert upload.result(0) is download.result(0) is True
    assert len(waits) == 0


def test_many_threads_may_wait_at_once(waits: Waits) -> None:
    found: list[bool] = []

    def wait() -> None:
        upload, download = waits.upload(7, DEVICE), waits.download()
        waits.acknowledged(7)
        waits.reached_head(waits.download_requests)
        found.append(upload.result(10) and download.result(10))

    for thread in [in_thread(wait) for _ in range(30)]:
        joined(thread)
    assert found == [True] * 30


def test_who_waited_for_a_number_of_an_old_identity_waits_for_what_was_brought_along() -> None:
    waits = Waits()
    waits.count_by(DEVICE, 7)
    upload = waits.upload(7, DEVICE)
    waits.count_by(OTHER, 2)
    waits.acknowledged(1)
    assert not upload.done()
    waits.acknowledged(2)
    assert upload.result(0) is True


def test_where_nothing_was_brought_along_the_next_acknowledgement_ends_the_wait() -> None:
    waits = Waits()
    waits.count_by(DEVICE, 7)
    upload = waits.upload(7, DEVICE)
    waits.count_by(OTHER, None)
    assert not upload.done()
    waits.acknowledged(0)
    assert upload.result(0) is True


def test_a_wait_that_comes_late_with_an_old_number_is_one_of_them() -> None:
    waits = Waits()
    waits.count_by(DEVICE, 7)
    waits.count_by(OTHER, 2)
    upload = waits.upload(7, DEVICE)
    waits.acknowledged(2)
    assert upload.result(0) is True


def test_a_wait_that_comes_early_with_a_new_number_keeps_it() -> None:
    """Its file is another device already, and the session has not connected as that one."""
    waits = Waits()
    waits.count_by(DEVICE, 7)
    upload = waits.upload(3, OTHER)
    waits.acknowledged(7)
    assert not upload.done()
    waits.count_by(OTHER, 2)
    waits.acknowledged(2)
    assert not upload.done()
    waits.acknowledged(3)
    assert upload.result(0) is True


def test_connecting_again_as_the_same_device_changes_nothing() -> None:
    waits = Waits()
    waits.count_by(DEVICE, 7)
    upload = waits.upload(5, DEVICE)
    waits.count_by(DEVICE, 9)
    waits.acknowledged(5)
    assert upload.result(0) is True
