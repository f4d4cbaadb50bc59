"""Pack pictures for training a person segmenter: RGB, hard labels and what two teachers say.

    python tools/person_data.py --out person_pack.npz --long-side 448

Reads the sets marked for training in the data folder (its README says which), shrinks every picture
to 320 pixels on its long side (or others), and writes one file of under 60 MB (448 pixels: 87 MB),
small enough to take to whatever machine trains. `read_pack` gives its rows back as `PackedPicture`:

    image    (h, w, 3)    uint8 RGB (kept as JPEG)
    label    (h, w)       uint8, 0 background, 1 person, 255 ignore
    teacher  (h, w)       uint8, the teachers' probability of person times 255 (kept as JPEG)
    classes  (33, 33, 21) uint8, DeepLabV3's probabilities times 255 over the squashed picture
"""

import argparse
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from person_pictures import (
    BACKGROUND,
    DEFAULT_DATA,
    IGNORE,
    PERSON,
    VOC_PERSON,
    Array,
    Floats,
    Picture,
    training_pictures,
)

LONG_SIDE = 320
SURE = 0.15
"""The class teacher, whose scores are of stride 16, is sure if it is that near 0 or 1."""


class Teachers:
    """DeepLabV3-MobileNetV2 (VOC) and the MediaPipe selfie network, run on the CPU."""

    def __init__(self, networks: Path) -> None:
        self._deeplab = self._open(networks / "deeplabv3_mobilenet_v2_voc.onnx")
        self._selfie = self._open(networks / "selfie_segmentation.onnx")

    @staticmethod
    def _open(path: Path) -> Any:
        import onnxruntime  # the machine that trains from a pack need not have it

        return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def class_logits(self, image: Array) -> Floats:
        """Return DeepLabV3's logits (33,33,21) float32 of an (H,W,3) uint8 RGB picture."""
        squashed = cv2.resize(image, (513, 513), interpolation=cv2.INTER_AREA)
        (logits,) = self._deeplab.run(["logits"], {"image": squashed[None]})
        return np.ascontiguousarray(logits[0].transpose(1, 2, 0))

    def selfie(self, image: Array) -> Floats:
        """Return the selfie network's probability (H,W) float32 of an (H,W,3) uint8 RGB picture."""
        squashed = cv2.resize(image, (256, 256), interpolation=cv2.INTER_AREA)
        feed = {self._selfie.get_inputs()[0].name: squashed[None].astype(np.float32) / 255}
        (probability,) = self._selfie.run(None, feed)
        return resized(probability[0, :, :, 0], image.shape[:2])


def resized(plane: Floats, size: tuple[int, ...]) -> Floats:
    """Return a float plane or (h,w,C) stack enlarged bilinearly to `size` (height, width)."""
    return cv2.resize(plane, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)


def stretched(cells: Floats, size: tuple[int, ...]) -> Floats:
    """Return (h,w) cells enlarged to `size` with corner cells on corner pixels, as DeepLab's are.

    A picture of 513 pixels gives 33 cells on pixels 0, 16, ... 512.
    """
    rows = np.linspace(0, cells.shape[0] - 1, size[0], dtype=np.float32)
    columns = np.linspace(0, cells.shape[1] - 1, size[1], dtype=np.float32)
    return cv2.remap(cells, *np.meshgrid(columns, rows), cv2.INTER_LINEAR)


def person_probability(logits: Floats, size: tuple[int, ...]) -> Floats:
    """Return the softmax probability of person at `size`, from (33,33,21) logits."""
    rest = np.delete(logits, VOC_PERSON, axis=2)
    peak = rest.max(axis=2)
    others = peak + np.log(np.exp(rest - peak[:, :, None]).sum(axis=2))
    margin = stretched(logits[:, :, VOC_PERSON] - others, size)
    return np.asarray(1 / (1 + np.exp(-np.clip(margin, -30, 30))), dtype=np.float32)


def without_bystanders(label: Array, certain: Array, teacher: Floats) -> Array:
    """Return `label` with ignore where a teacher sees a person well away from the labelled one.

    `label` and `certain` are (H,W) uint8, `teacher` (H,W) float32 probability; `certain` is 1 where
    background must stay. Near the labelled person the coarse teacher is not believed.
    """
    near = cv2.dilate((label == PERSON).astype(np.uint8), np.ones((15, 15), np.uint8))
    stranger = (teacher > 0.5) & (label == BACKGROUND) & (near == 0) & (certain == 0)
    return np.where(stranger, IGNORE, label).astype(np.uint8)


def agreed_label(deeplab: Floats, selfie: Floats) -> Array:
    """Return (H,W) uint8: person or background where both teachers are sure of it, else ignore."""
    label = np.full(deeplab.shape, IGNORE, np.uint8)
    label[(deeplab > 0.7) & (selfie > 0.7)] = PERSON
    label[(deeplab < 0.15) & (selfie < 0.15)] = BACKGROUND
    return label


def shrunk_mask(mask: npt.NDArray[np.bool_], size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Return the (H,W) bool mask at `size` (height, width), each pixel by majority of its area."""
    area = cv2.resize(mask.astype(np.float32), size[::-1], interpolation=cv2.INTER_AREA)
    return np.asarray(area >= 0.5)


def shrunk(picture: Picture, long_side: int = LONG_SIDE) -> Picture:
    """Return the picture with its long side at `long_side` pixels."""
    height, width = picture.image.shape[:2]
    scale = long_side / max(height, width)
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    image = cv2.resize(picture.image, size[::-1], interpolation=cv2.INTER_AREA)
    label, certain = None, picture.certain_background
    if picture.label is not None:
        label = shrunk_mask(picture.label == PERSON, size).astype(np.uint8)
        label[shrunk_mask(picture.label == IGNORE, size)] = IGNORE
    if certain is not None:
        certain = shrunk_mask(certain, size)
    return Picture(picture.name, picture.source, image.astype(np.uint8), label, certain)


def taught(picture: Picture, teachers: Teachers) -> tuple[Array, Array, Floats]:
    """Return label (H,W) uint8, teacher (H,W) uint8 and class logits (33,33,21) float32."""
    logits = teachers.class_logits(picture.image)
    deeplab = person_probability(logits, picture.image.shape[:2])
    selfie = teachers.selfie(picture.image)
    label, teacher = picture.label, deeplab
    if label is None:
        unsure = np.minimum(deeplab, 1 - deeplab) > SURE  # at edges, where it sees none
        label = agreed_label(deeplab, selfie)
        teacher = np.where(unsure, selfie, np.float32(0.5) * (deeplab + selfie))
    if picture.certain_background is not None:
        certain = picture.certain_background.astype(np.uint8)
        label = without_bystanders(label, certain, np.maximum(deeplab, selfie))
    return label, np.round(teacher * 255).astype(np.uint8), logits


@dataclass(frozen=True)
class PackedPicture:
    """One row of the pack; the arrays are those named at the top."""

    name: str
    source: str
    image: Array
    label: Array
    teacher: Array
    classes: Array


def coded(plane: Array, kind: str, *parameters: int) -> bytes:
    """Return the plane as the bytes of a picture file of `kind` (".jpg" or ".png")."""
    ok, code = cv2.imencode(kind, plane, parameters)
    assert ok, f"OpenCV cannot write {kind}"
    return code.tobytes()


def class_probabilities(logits: Floats) -> Array:
    """Return the softmax of (33,33,21) logits as uint8, 255 being certainty."""
    grown = np.exp(logits - logits.max(axis=2, keepdims=True))
    return np.round(255 * grown / grown.sum(axis=2, keepdims=True)).astype(np.uint8)


def packed_row(picture: Picture, teachers: Teachers) -> tuple[bytes, bytes, bytes, bytes]:
    """Return image, label, teacher and classes of a shrunk picture, compressed."""
    label, teacher, logits = taught(picture, teachers)
    bgr = np.ascontiguousarray(picture.image[:, :, ::-1])
    return (
        coded(bgr, ".jpg", cv2.IMWRITE_JPEG_QUALITY, 90),
        coded(label, ".png", cv2.IMWRITE_PNG_COMPRESSION, 9),
        coded(teacher, ".jpg", cv2.IMWRITE_JPEG_QUALITY, 85),
        zlib.compress(class_probabilities(logits).tobytes(), 9),
    )


PLANES = ("image", "label", "teacher", "classes")


def pack(data: Path, out: Path, long_side: int) -> int:
    """Write the pack to `out`; return the number of its rows."""
    teachers = Teachers(data / "networks")
    planes: dict[str, list[bytes]] = {name: [] for name in PLANES}
    names: list[tuple[str, str]] = []
    for picture in (shrunk(one, long_side) for one in training_pictures(data)):
        for name, code in zip(PLANES, packed_row(picture, teachers), strict=True):
            planes[name].append(code)
        names.append((picture.name, picture.source))
    arrays = {"names": np.frombuffer(json.dumps(names).encode(), np.uint8)}
    for name, codes in planes.items():
        arrays[name] = np.frombuffer(b"".join(codes), np.uint8)
        arrays[f"{name}_ends"] = np.cumsum([len(code) for code in codes])
    np.savez(out, **arrays)
    return len(names)


def read_pack(path: Path) -> Iterator[PackedPicture]:
    """Yield the rows of the pack at `path`, in order."""
    arrays = np.load(path)
    codes = {name: np.split(arrays[name], arrays[f"{name}_ends"][:-1]) for name in PLANES}
    for row, (name, source) in enumerate(json.loads(arrays["names"].tobytes())):
        image = cv2.imdecode(codes["image"][row], cv2.IMREAD_COLOR)
        classes = np.frombuffer(zlib.decompress(codes["classes"][row].tobytes()), np.uint8)
        yield PackedPicture(
            name,
            source,
            np.ascontiguousarray(image[:, :, ::-1], dtype=np.uint8),
            np.asarray(cv2.imdecode(codes["label"][row], cv2.IMREAD_GRAYSCALE), np.uint8),
            np.asarray(cv2.imdecode(codes["teacher"][row], cv2.IMREAD_GRAYSCALE), np.uint8),
            classes.reshape(33, 33, 21),
        )


def main() -> None:
    """Read the command line and pack."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="folder of labelled sets")
    parser.add_argument("--out", type=Path, required=True, help="the file to write (.npz)")
    parser.add_argument("--long-side", type=int, default=LONG_SIDE, help="pixels of a picture")
    args = parser.parse_args()
    count = pack(args.data, args.out, args.long_side)
    print(f"packed {count} pictures into {args.out}, {args.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
