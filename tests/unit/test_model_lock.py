"""infra/model_lock.py: what a lock says, and what of it is the model's own."""

from __future__ import annotations

import pytest

from infra import model_lock

SERVER = """\
numpy==2.4.6 \\
    --hash=sha256:aa \\
    --hash=sha256:ab
    # via
    #   onnxruntime
uvloop==0.23.0 ; sys_platform != 'win32' \\
    --hash=sha256:ba
    # via server
"""
MODEL = f"""\
# Written by a test
# {"0" * 64}  requirements.txt
--extra-index-url https://wheels.example.com/cpu
numpy==1.26.4 \\
    --hash=sha256:ca
Scikit_Learn==1.5.2 \\
    --hash=sha256:da
uvloop==0.23.0 ; sys_platform != 'win32' \\
    --hash=sha256:ba
"""


def test_what_the_server_has_at_the_same_version_is_not_the_models_own() -> None:
    model = model_lock.parse(MODEL)
    assert model.sources == {"requirements.txt": "0" * 64}
    own = model_lock.beyond_server(model, [model_lock.parse(SERVER)])
    assert [(pin.name, pin.version) for pin in own] == [("numpy", "1.26.4"), ("scikit-learn", "1.5.2")]
    assert model_lock.render(model.indexes, own) == (
        "--extra-index-url https://wheels.example.com/cpu\n"
        "Scikit_Learn==1.5.2 \\\n    --hash=sha256:da\n"
        "numpy==1.26.4 \\\n    --hash=sha256:ca\n"
    )


def test_an_environment_has_the_models_packages_and_those_of_the_server_that_it_does_not_name() -> None:
    server = model_lock.parse(SERVER + "pillow==13.0.0 --hash=sha256:ea\n")
    text = model_lock.together(model_lock.parse(MODEL), server)
    names = [(pin.name, pin.version) for pin in model_lock.parse(text).pins]
    assert names == [
        ("scikit-learn", "1.5.2"),
        ("numpy", "1.26.4"),
        ("pillow", "13.0.0"),
        ("uvloop", "0.23.0"),
    ]


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ("numpy==2.4.6", "has no hash for numpy==2.4.6"),
        ("numpy>=2 --hash=sha256:aa", "no package with its version: numpy>=2"),
        ("-r other.txt", "no package with its version: -r other.txt"),
        ("x @ https://example.com/x.whl --hash=sha256:aa", "no package with its version: x @"),
    ],
)
def test_a_lock_that_packaging_did_not_write_is_refused(line: str, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        model_lock.parse(f"{line}\n")


def test_line_ends_do_not_change_what_a_lock_was_made_of() -> None:
    assert model_lock.digest_of(b"a\r\nb\r\n") == model_lock.digest_of(b"a\nb") != model_lock.digest_of(b"a\nc")


def test_debian_packages() -> None:
    text = "# sound\nlibsndfile1\n\nffmpeg=7:7.1.1-1+b1  # a version\nlibc6:amd64\n"
    assert model_lock.debian_packages(text) == ("libsndfile1", "ffmpeg=7:7.1.1-1+b1", "libc6:amd64")


@pytest.mark.parametrize("line", ["ffmpeg libsndfile1", "--allow-downgrades", "$(reboot)", "Ffmpeg", "a;b", "x"])
def test_what_is_no_debian_package_is_refused_with_its_line(line: str) -> None:
    with pytest.raises(ValueError, match=r"line 2: .* is no Debian package"):
        model_lock.debian_packages(f"ffmpeg\n{line}\n")
