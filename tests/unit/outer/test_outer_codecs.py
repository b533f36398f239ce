"""Claims about outer/codecs: sizes, errors, edge values, golden bytes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from outer_samples import Float32, arithmetic, sample

from farflung.errors import ConfigError, ProtocolError
from farflung.outer.codecs import CODECS, Codec, get_codec
from farflung.outer.codecs.int8_sigma import tree_sum

GOLDEN = Path(__file__).parents[2] / "golden" / "outer_arithmetic.json"
GOLDEN_N = 600
ALL = pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)

FINITE = hnp.arrays(
    np.float32,
    st.integers(0, 700),
    elements=st.floats(-(2.0**100), 2.0**100, width=32),
    fill=st.just(0.0),
)


def golden_input() -> Float32:
    """Samples and every special value but NaN and infinity; one block is zero."""
    x = sample(GOLDEN_N, 5)
    x[:6] = (0.0, -0.0, 1e-40, -1e-38, 65_504.0, -3.0)
    x[256:512] = 0
    return x


def golden() -> dict[str, str]:
    x = golden_input()
    encoded = {f"{codec.name} bytes": codec.encode(x).hex() for codec in CODECS.values()}
    return encoded | arithmetic(70_000)


def round_trip(codec: Codec, x: Float32) -> Float32:
    out = np.full(x.size, 7, np.float32)
    codec.decode(codec.encode(x), out)
    return out


def relative_error(codec: Codec, x: Float32) -> float:
    """||Q(x) - x||^2 / ||x||^2."""
    wide = x.astype(np.float64)
    return float(np.sum((round_trip(codec, x) - wide) ** 2) / np.sum(wide**2))


def draws(name: str) -> Float32:
    rng, n = np.random.default_rng(3), 1 << 17
    values = {
        "gauss": lambda: rng.standard_normal(n),
        "laplace": lambda: rng.laplace(size=n),
        "t4": lambda: rng.standard_t(4, size=n),
    }
    return values[name]().astype(np.float32)


@pytest.mark.parametrize(
    ("codec", "gauss", "laplace", "t4"),
    [("fp32", 0, 0, 0), ("bf16", 0, 0, 0), ("int8", 0, 1e-4, 2e-4)],
)
def test_relative_errors_are_those_of_the_table(
    codec: str, gauss: float, laplace: float, t4: float
) -> None:
    for name, expected in (("gauss", gauss), ("laplace", laplace), ("t4", t4)):
        found = relative_error(get_codec(codec), draws(name))
        assert found == pytest.approx(expected, rel=0.02, abs=0.5e-4), name


def test_bf16_error_is_that_of_eight_bits() -> None:
    assert relative_error(get_codec("bf16"), draws("gauss")) < 2.0**-17


def test_sigma_error_is_that_of_its_bucket_width() -> None:
    found = relative_error(get_codec("int8-sigma"), draws("gauss"))
    assert found == pytest.approx((12 / 256) ** 2 / 12, rel=0.05)


@ALL
@settings(max_examples=30, deadline=None)
@given(n=st.integers(0, 140_000))
def test_payload_has_the_announced_size(codec: Codec, n: int) -> None:
    expected = {
        "fp32": 4 * n, "bf16": 2 * n, "int8": n + 4 * ((n + 255) // 256), "int8-sigma": n + 1024,
    }  # fmt: skip
    wire = codec.encode(np.ones(n, np.float32))
    assert len(wire) == codec.encoded_size(n) == expected[codec.name]


@ALL
def test_encode_into_a_buffer_puts_the_same_bytes_there(codec: Codec) -> None:
    x = sample(1000, 1)
    buffer = bytearray(codec.encoded_size(1000) + 3)
    inside = memoryview(buffer)[3:]
    assert codec.encode(x, inside) == codec.encode(x) == bytes(inside)
    with pytest.raises(ValueError, match="are needed"):
        codec.encode(x, memoryview(buffer))


@ALL
@pytest.mark.parametrize("n", [1, 255, 256, 257, 65_535, 65_537, 131_072])
def test_decode_takes_views_and_gives_the_same_values(codec: Codec, n: int) -> None:
    x = sample(n, 2)
    wire = codec.encode(x)
    shifted = memoryview(b"x" + wire)[1:]
    out = np.empty(n, np.float32)
    codec.decode(shifted, out)
    np.testing.assert_array_equal(out, round_trip(codec, x))


@ALL
@pytest.mark.parametrize("change", [-1, 1, 4])
def test_a_wrong_size_is_a_protocol_error(codec: Codec, change: int) -> None:
    wire = codec.encode(np.ones(300, np.float32)) + bytes(4)
    with pytest.raises(ProtocolError, match="300 elements"):
        codec.decode(wire[: len(wire) - 4 + change], np.empty(300, np.float32))


@ALL
def test_other_arrays_than_float32_vectors_are_refused(codec: Codec) -> None:
    for bad in (np.ones(4), np.ones((2, 2), np.float32), np.ones(8, np.float32)[::2]):
        with pytest.raises(ValueError, match="contiguous float32"):
            codec.encode(bad)  # type: ignore[arg-type]


@ALL
@settings(max_examples=40, deadline=None)
@given(raw=st.binary(max_size=1300))
def test_any_bytes_of_the_right_size_decode_without_warning(codec: Codec, raw: bytes) -> None:
    n = next((k for k in range(len(raw) + 1) if codec.encoded_size(k) == len(raw)), None)
    if n is not None:
        codec.decode(raw, np.empty(n, np.float32))


@ALL
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_input_never_decodes_to_something_finite(codec: Codec, bad: float) -> None:
    x = sample(700, 1)
    x[300] = bad
    assert not np.isfinite(round_trip(codec, x)[300])


@ALL
def test_zeros_are_exact(codec: Codec) -> None:
    np.testing.assert_array_equal(round_trip(codec, np.zeros(513, np.float32)), 0)


@settings(max_examples=50, deadline=None)
@given(hnp.arrays(np.uint32, st.integers(0, 300)))
def test_fp32_keeps_every_bit(bits: np.ndarray[tuple[int], np.dtype[np.uint32]]) -> None:
    out = round_trip(get_codec("fp32"), bits.view(np.float32))
    np.testing.assert_array_equal(out.view(np.uint32), bits)


@settings(max_examples=50, deadline=None)
@given(hnp.arrays(np.uint32, st.integers(1, 300)))
def test_bf16_is_torch_bfloat16(bits: np.ndarray[tuple[int], np.dtype[np.uint32]]) -> None:
    torch = pytest.importorskip("torch")
    x = bits.view(np.float32)
    theirs = torch.from_numpy(x.copy()).to(torch.bfloat16).to(torch.float32).numpy()
    ours = round_trip(get_codec("bf16"), x)
    np.testing.assert_array_equal(np.isnan(ours), np.isnan(x))
    finite = ~np.isnan(x)
    np.testing.assert_array_equal(ours[finite].view(np.uint32), theirs[finite].view(np.uint32))


@settings(max_examples=50, deadline=None)
@given(FINITE)
def test_int8_is_within_half_a_step_of_its_block(x: Float32) -> None:
    out = round_trip(get_codec("int8"), x)
    for at in range(0, x.size, 256):
        block = x[at : at + 256].astype(np.float64)
        half_step = float(np.abs(block).max()) / 254
        assert float(np.abs(out[at : at + 256] - block).max()) <= half_step * 1.0001 + 1.5e-36


def test_int8_wire_is_scales_then_codes() -> None:
    x = np.zeros(258, np.float32)
    x[:4] = (127, -127, 0.5, 1.5)
    x[256] = -254
    wire = get_codec("int8").encode(x)
    assert wire[:8] == np.array([1, 2], "<f4").tobytes()
    assert np.frombuffer(wire[8:], np.int8)[[0, 1, 2, 3, 256, 257]].tolist() == [
        127, -127, 0, 2, -127, 0,
    ]  # fmt: skip


def test_int8_blocks_are_independent() -> None:
    x = sample(768, 1)
    clean = round_trip(get_codec("int8"), x)
    x[256:512] = np.nan
    broken = round_trip(get_codec("int8"), x)
    np.testing.assert_array_equal(broken[:256], clean[:256])
    np.testing.assert_array_equal(broken[512:], clean[512:])
    assert np.isnan(broken[256:512]).all()


def test_int8_subnormal_blocks_become_zero() -> None:
    np.testing.assert_array_equal(round_trip(get_codec("int8"), np.full(9, 1e-37, np.float32)), 0)


@settings(max_examples=30, deadline=None)
@given(st.floats(-(2.0**126), 2.0**126, width=32), st.integers(1, 400))
def test_sigma_keeps_a_constant_exactly(value: float, n: int) -> None:
    x = np.full(n, value, np.float32)
    np.testing.assert_array_equal(round_trip(get_codec("int8-sigma"), x), x)


def test_sigma_codebook_holds_bucket_means_and_centres() -> None:
    x = np.array([-1, 1] * 50, np.float32)  # mean 0, sigma 1: buckets are 12/256 wide
    wire = get_codec("int8-sigma").encode(x)
    book = np.frombuffer(wire[:1024], "<f4")
    used = np.frombuffer(wire[1024:], np.uint8)[:2]
    assert book[used].tolist() == [-1, 1]
    assert book[0] == pytest.approx(-6 + 6 / 256)
    assert used.tolist() == [106, 149]


def test_sigma_clips_outliers_into_the_outer_buckets() -> None:
    x = sample(20_000, 0) * np.float32(0)
    x[:100] = 1e-3
    x[7] = 1e4
    numbers = np.frombuffer(get_codec("int8-sigma").encode(x)[1024:], np.uint8)
    assert numbers[7] == 255
    assert round_trip(get_codec("int8-sigma"), x)[7] == np.float32(1e4)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(-(2**40), 2**40), min_size=1, max_size=70))
def test_tree_sum_is_a_sum(values: list[int]) -> None:
    assert tree_sum(np.array(values, np.float64)) == sum(values)


@ALL
def test_encoding_what_was_decoded_is_stable_to_one_step(codec: Codec) -> None:
    x = sample(2000, 3)
    once = round_trip(codec, x)
    if codec.name != "int8-sigma":  # its codebook moves with the values
        np.testing.assert_allclose(round_trip(codec, once), once, rtol=1e-6, atol=0)


def test_golden_bytes() -> None:
    assert golden() == json.loads(GOLDEN.read_text())


def test_an_unknown_codec_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="int8, int8-sigma"):
        get_codec("int4")
