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
from PIL import Image

Array = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

DEFAULT_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
LONG_SIDE = 320
BACKGROUND, PERSON, IGNORE = 0, 1, 255
VOC_PERSON, COCO_PERSON = 15, 1
CARRIED = ("bag", "purse", "wallet")
KEEP_EVERY, KEEP_COUNT = 9, 100
CLOTHING_OFF = -1.16, -0.94
"""Pixels by which labels have to move (right, down) so that their edges meet most of the pictures';
measured on every eighth of those to train on."""
RIM = 5.0
"""Pixels that ignore along an edge is wide, at most."""
SURE = 0.15
"""The class teacher, whose scores are of stride 16, is sure if it is that near 0 or 1."""

FRAMES_PER_CLIP = {"intel_asl_": 8, "intel_one-by-one": 45, "liveportrait_": 25, "intel_car": 45}


@dataclass(frozen=True)
class Picture:
    """One picture: `image` (H,W,3) uint8 RGB; `label` (H,W) uint8 of 0, 1, 255, None if unlabelled.

    `certain_background` (H,W) bool marks label 0 that no teacher may turn into ignore.
    """

    name: str
    source: str
    image: Array
    label: Array | None
    certain_background: npt.NDArray[np.bool_] | None = None


def read_rgb(path: Path) -> Array:
    """Return the picture at `path` as (H,W,3) uint8 RGB; raises FileNotFoundError."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise FileNotFoundError(f"no readable picture at {path}")
    return np.ascontiguousarray(image[:, :, ::-1], dtype=np.uint8)


def read_index_mask(path: Path) -> Array:
    """Return a palette or grey PNG as its (H,W) uint8 indices."""
    with Image.open(path) as mask:
        return np.array(mask, dtype=np.uint8)


def voc_pictures(data: Path, split: str) -> Iterator[Picture]:
    """Yield the pictures of Pascal VOC's `split` ("train" or "val"); void becomes ignore.

    Of "train", the rim of void around people is halved, see `halved_rim`.
    """
    root = data / "voc"
    for name in (root / "ImageSets" / "Segmentation" / f"{split}.txt").read_text().split():
        classes = read_index_mask(root / "SegmentationClass" / f"{name}.png")
        label = np.where(classes == 255, IGNORE, classes == VOC_PERSON).astype(np.uint8)
        label = halved_rim(label) if split == "train" else label
        yield Picture(name, f"voc-{split}", read_rgb(root / "JPEGImages" / f"{name}.jpg"), label)


def halved_rim(label: Array) -> Array:
    """Return `label` (H,W) uint8 with ignore around people given to whichever side is nearer.

    The labels leave a rim a few pixels wide along every edge, so that the edge is in its middle.
    Ignore that is wider stays.
    """
    person, others = _reached(label, PERSON), _reached(label, BACKGROUND)
    rim = (label == IGNORE) & (np.maximum(person, others) <= RIM)
    return np.where(rim, person < others, label).astype(np.uint8)


def _reached(label: Array, value: int) -> Floats:
    """Return (H,W) float32: the distance to the next pixel with this value; far where none is."""
    return cv2.distanceTransform((label != value).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5)


def coco_label(annotations: list[dict], image: Path) -> Array:
    """Return the (H,W) uint8 label of the picture's COCO `annotations`; crowds are ignored."""
    from rtseg.datasets.coco_masks import Outline, Outlines  # who trains from a pack need not have

    people = tuple(
        Outline(a["id"], IGNORE if a["iscrowd"] else PERSON, a["segmentation"])
        for a in annotations
        if a["category_id"] == COCO_PERSON
    )
    return Outlines(image, image, None, people)()


def coco_pictures(data: Path, split: str) -> Iterator[Picture]:
    """Yield the pictures of COCO's `split` ("train" or "val"), with and without people."""
    root = data / "coco"
    instances = json.loads((root / f"instances_{split}.json").read_text())
    for entry in sorted(instances["images"], key=lambda image: image["id"]):
        path = root / split / entry["file_name"]
        own = [a for a in instances["annotations"] if a["image_id"] == entry["id"]]
        yield Picture(path.name, f"coco-{split}", read_rgb(path), coco_label(own, path))


def clothing_pictures(data: Path, kept_aside: bool) -> Iterator[Picture]:
    """Yield the street-fashion photos, either the 100 kept aside to measure with or the others.

    Kept aside: of the names in sorted order every 9th, the first 100 of them. The labels of the
    others are moved to where the pictures' edges are.
    """
    root = data / "clothing"
    carried = [json.loads((root / "classes.json").read_text()).index(name) for name in CARRIED]
    paths = sorted((root / "masks").glob("*.png"))
    held_out = set(paths[::KEEP_EVERY][:KEEP_COUNT])
    for path in (p for p in paths if (p in held_out) == kept_aside):
        classes = read_index_mask(path)
        bags = np.isin(classes, carried).astype(np.uint8)
        label = ((classes > 0) & (bags == 0)).astype(np.uint8)
        if not kept_aside:
            label, bags = moved(label, *CLOTHING_OFF), moved(bags, *CLOTHING_OFF)
        source = "clothing-val" if kept_aside else "clothing-train"
        image = read_rgb(root / "images" / f"{path.stem}.jpg")
        yield Picture(path.stem, source, image, label, bags > 0)


def moved(mask: npt.NDArray[Any], right: float, down: float) -> Array:
    """Return the (H,W) mask as uint8 of 0 and 1, moved by parts of pixels; its margins go on."""
    shift = np.array([[1, 0, right], [0, 1, down]], np.float32)
    there = cv2.warpAffine(
        mask.astype(np.float32), shift, mask.shape[::-1], borderMode=cv2.BORDER_REPLICATE
    )
    return (there >= 0.5).astype(np.uint8)


def unlabelled_pictures(data: Path) -> Iterator[Picture]:
    """Yield the street-fashion photos that have no mask."""
    for path in sorted((data / "clothing" / "unlabelled").glob("*.jpg")):
        yield Picture(path.stem, "clothing-unlabelled", read_rgb(path), None)


def people_pictures(data: Path) -> Iterator[Picture]:
    """Yield the portraits of people/ with their masks: to measure with, never to train on."""
    root = data / "people"
    for path in sorted((root / "masks").glob("*.png"), key=lambda p: int(p.stem)):
        label = (read_index_mask(path) > 0).astype(np.uint8)
        yield Picture(path.stem, "people", read_rgb(root / "images" / f"{path.stem}.jpg"), label)


def count_frames(path: Path) -> int:
    """Return how many frames decode from the clip (headers lie or say nothing)."""
    capture = cv2.VideoCapture(str(path))
    count = 0
    while capture.grab():
        count += 1
    capture.release()
    return count


def clip_frames(path: Path, wanted: int) -> Iterator[Array]:
    """Yield `wanted` frames (H,W,3) uint8 RGB spread evenly over the clip."""
    chosen = set(np.linspace(0, count_frames(path) - 1, wanted).astype(int).tolist())
    capture = cv2.VideoCapture(str(path))
    for index in range(max(chosen) + 1):
        capture.grab()
        if index in chosen:
            ok, frame = capture.retrieve()
            if not ok:
                raise OSError(f"frame {index} of {path} does not decode")
            yield np.ascontiguousarray(frame[:, :, ::-1], dtype=np.uint8)
    capture.release()


def video_pictures(data: Path) -> Iterator[Picture]:
    """Yield frames of the clips marked for training; those of the car clip are all background."""
    for prefix, wanted in FRAMES_PER_CLIP.items():
        for path in sorted((data / "videos").glob(f"{prefix}*")):
            for number, image in enumerate(clip_frames(path, wanted)):
                label = np.zeros(image.shape[:2], np.uint8) if prefix == "intel_car" else None
                yield Picture(f"{path.stem}#{number}", "frames", image, label)


def training_pictures(data: Path) -> Iterator[Picture]:
    """Yield every picture that may be trained on, in a fixed order."""
    yield from voc_pictures(data, "train")
    yield from coco_pictures(data, "train")
    yield from clothing_pictures(data, kept_aside=False)
    yield from unlabelled_pictures(data)
    yield from video_pictures(data)


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
