"""A full disk is an error with a name, and uploads leave nothing behind."""

import errno
import io

import pytest

from narrative.errors import PayloadTooLarge, ResourceExhausted
from services.asr.scratch import write_all
from services.asr.upload import Upload


class Full(io.BytesIO):
    def write(self, data):
        raise OSError(errno.ENOSPC, "No space left on device")


class AlmostFull(io.BytesIO):
    def write(self, data):
        return super().write(data[:2])


@pytest.mark.parametrize("file", [Full(), AlmostFull()])
def test_a_full_disk_is_no_surprise(file):
    with pytest.raises(ResourceExhausted, match="scratch folder") as caught:
        write_all(file, b"abc")
    assert caught.value.retry_after_s > 0


def test_an_upload_is_there_until_it_is_not(tmp_path):
    with Upload(tmp_path, 10) as upload:
        upload.append(b"12345")
        upload.append(b"67890")
        assert upload.path.read_bytes() == b"1234567890"
        with pytest.raises(PayloadTooLarge, match="10 bytes"):
            upload.append(b"1")
    assert list(tmp_path.iterdir()) == []
