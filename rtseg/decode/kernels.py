"""GPU kernels in Triton: what `rtseg.decode` compiles for the CPU, where the frame lies, and what
a network does with the result of a convolution.

With TRITON_INTERPRET=1 they run on the CPU too, slowly; that is how they are tested without a GPU.
The arithmetic is that of `rtseg.decode`, in the same order, except that a GPU may fuse a product
and a sum, which decides ties at float precision another way.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def shrink(
    frames,
    small,
    height,
    width,
    out_height,
    out_width,
    BOX_Y: tl.constexpr,
    BOX_X: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """(N, H, W, 3) BGR to (N, h, w, 3) RGB, both uint8: means of boxes, bilinear between them.

    A box is as many pixels as a side is halved by; see `rtseg.draw.box`.
    """
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < out_height * out_width
    number = tl.program_id(1).to(tl.int64)
    frame = frames + number * height * width * 3
    small += number * out_height * out_width * 3
    y = at // out_width
    x = at % out_width
    boxes_y = height // BOX_Y
    boxes_x = width // BOX_X
    where_y = tl.maximum((y.to(tl.float32) + 0.5) * (boxes_y / out_height) - 0.5, 0.0)
    where_x = tl.maximum((x.to(tl.float32) + 0.5) * (boxes_x / out_width) - 0.5, 0.0)
    top = tl.minimum(where_y.to(tl.int32), boxes_y - 1)
    left = tl.minimum(where_x.to(tl.int32), boxes_x - 1)
    below = where_y - top.to(tl.float32)
    across = where_x - left.to(tl.float32)
    for channel in tl.static_range(3):
        value = tl.zeros([BLOCK], tl.float32)
        for down in tl.static_range(2):
            for over in tl.static_range(2):
                box_y = tl.minimum(top + down, boxes_y - 1)
                box_x = tl.minimum(left + over, boxes_x - 1)
                share_y = below if down else 1.0 - below
                share_x = across if over else 1.0 - across
                total = tl.zeros([BLOCK], tl.float32)
                # a side that is not divided evenly has its boxes spread over it
                first_y = (2 * box_y * height + boxes_y) // (2 * boxes_y)
                first_x = (2 * box_x * width + boxes_x) // (2 * boxes_x)
                for dy in tl.static_range(BOX_Y):
                    for dx in tl.static_range(BOX_X):
                        pixel = (first_y + dy) * width + first_x + dx
                        part = tl.load(frame + pixel * 3 + channel, mask=inside, other=0)
                        total += part.to(tl.float32)
                value += total * (share_y * share_x)
        rounded = (value / (BOX_Y * BOX_X) + 0.5).to(tl.int32).to(tl.uint8)
        tl.store(small + at * 3 + (2 - channel), rounded, mask=inside)


@triton.jit
def bgr(
    luma,
    chroma,
    picture,
    height,
    width,
    chroma_height,
    chroma_width,
    luma_line,
    chroma_line,
    kr,
    kb,
    FULL: tl.constexpr,
    DEPTH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """NV12, or P010 with DEPTH 16, to (H, W, 3) uint8 BGR.

    `kr` and `kb` are the coefficients of the matrix, see `rtseg.yuv.Luma`.
    """
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < height * width
    y = at // width
    x = at % width
    row = tl.minimum(y // 2, chroma_height - 1)
    column = tl.minimum(x // 2, chroma_width - 1)
    near = chroma + row * chroma_line + column * 2
    unit: tl.constexpr = 1.0 if DEPTH == 8 else 1.0 / 256.0
    bright = tl.load(luma + y * luma_line + x, mask=inside, other=0).to(tl.float32) * unit
    blue = tl.load(near, mask=inside, other=0).to(tl.float32) * unit - 128.0
    red = tl.load(near + 1, mask=inside, other=0).to(tl.float32) * unit - 128.0
    if not FULL:
        bright = (bright - 16.0) * (255.0 / 219.0)
        blue = blue * (255.0 / 224.0)
        red = red * (255.0 / 224.0)
    blue *= 2.0 - 2.0 * kb  # what is to be added to luma
    red *= 2.0 - 2.0 * kr
    rest = 1.0 - kr - kb
    green = bright - (kb * blue + kr * red) / rest
    for channel in tl.static_range(3):
        value = bright + blue if channel == 0 else green
        value = bright + red if channel == 2 else value
        rounded = tl.minimum(tl.maximum(value + 0.5, 0.0), 255.0).to(tl.uint8)
        tl.store(picture + at * 3 + channel, rounded, mask=inside)


@triton.jit
def winners(
    scores,
    top,
    classes,
    h,
    w,
    stride_n,
    stride_c,
    stride_y,
    stride_x,
    BLOCK: tl.constexpr,
):
    """(N, C, h, w) scores -> (N, h, w) uint8, the lowest index of the largest score."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < h * w
    number = tl.program_id(1).to(tl.int64)
    top += number * h * w
    place = scores + number * stride_n + (at // w) * stride_y + (at % w) * stride_x
    best = tl.load(place, mask=inside, other=0.0)
    index = tl.zeros([BLOCK], tl.int32)
    for c in range(1, classes):
        score = tl.load(place + c * stride_c, mask=inside, other=0.0)
        wins = score > best
        best = tl.where(wins, score, best)
        index = tl.where(wins, c, index)
    tl.store(top + at, index.to(tl.uint8), mask=inside)


@triton.jit
def decode(
    scores,
    top,
    rows,
    row_weights,
    columns,
    column_weights,
    table,
    masks,
    counts,
    frames,
    canvas,
    weight,
    offset,
    classes,
    h,
    w,
    stride_n,
    stride_c,
    stride_y,
    stride_x,
    height,
    width,
    PAINT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A run of one row of one frame: its part of the mask, counted, and painted over the frame.

    Only where the corners of a cell disagree are scores interpolated. `rows`, `columns` and their
    weights are those of `rtseg.decode.axis`; `weight` and `offset` those of a `BlendTable`.
    """
    y = tl.program_id(0)
    x = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = x < width
    number = tl.program_id(2).to(tl.int64)
    scores += number * stride_n
    top += number * h * w
    mask = masks + number * height * width
    counts += number * 256
    frame = frames + number * height * width * 3
    canvas += number * height * width * 3
    y0 = tl.load(rows + y)
    y1 = tl.minimum(y0 + 1, h - 1)
    below = tl.load(row_weights + y)
    x0 = tl.load(columns + x, mask=inside, other=0)
    x1 = tl.minimum(x0 + 1, w - 1)
    across = tl.load(column_weights + x, mask=inside, other=0.0)

    index = tl.load(top + y0 * w + x0).to(tl.int32)
    disagree = index != tl.load(top + y0 * w + x1).to(tl.int32)
    disagree |= index != tl.load(top + y1 * w + x0).to(tl.int32)
    disagree |= index != tl.load(top + y1 * w + x1).to(tl.int32)
    if tl.max(disagree.to(tl.int32), axis=0) > 0:
        a = scores + y0 * stride_y + x0 * stride_x
        b = scores + y0 * stride_y + x1 * stride_x
        c = scores + y1 * stride_y + x0 * stride_x
        d = scores + y1 * stride_y + x1 * stride_x
        best = tl.full([BLOCK], float("-inf"), tl.float32)
        for k in range(classes):
            up_left, up_right = tl.load(a), tl.load(b)
            left = up_left + (tl.load(c) - up_left) * below
            right = up_right + (tl.load(d) - up_right) * below
            score = left + (right - left) * across
            wins = score > best
            best = tl.where(wins, score, best)
            index = tl.where(wins, k, index)
            a += stride_c
            b += stride_c
            c += stride_c
            d += stride_c

    value = tl.load(table + index).to(tl.int32)
    tl.store(mask + y * width + x, value.to(tl.uint8), mask=inside)
    # lanes beyond the row are counted as value 0, and taken off again
    found = tl.histogram(tl.where(inside, value, 0), 256)
    bins = tl.arange(0, 256)
    found -= tl.where(bins == 0, tl.sum((~inside).to(tl.int32), axis=0), 0)
    tl.atomic_add(counts + bins, found, mask=found > 0)

    if PAINT:
        kept = tl.load(weight + value)
        pixel = (y * width + x) * 3
        for channel in tl.static_range(3):
            old = tl.load(frame + pixel + channel, mask=inside, other=0).to(tl.float32)
            added = tl.load(offset + value * 3 + channel)
            new = (old * kept + added) * (1.0 / 65536.0)
            tl.store(canvas + pixel + channel, new.to(tl.int32).to(tl.uint8), mask=inside)


@triton.jit
def epilogue(
    values,
    bias,
    residual,
    count,
    channels,
    inner,
    ADD: tl.constexpr,
    ACTIVATION: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """In place, `activation(values + bias (+ residual))` of what a convolution gives.

    `inner` values in a row are of one channel: 1 channels last.
    """
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    value = tl.load(values + at, mask=inside, other=0.0).to(tl.float32)
    value += tl.load(bias + (at // inner) % channels, mask=inside, other=0.0).to(tl.float32)
    if ADD:
        value += tl.load(residual + at, mask=inside, other=0.0).to(tl.float32)
    # a value that is not a number stays so, as in torch
    if ACTIVATION == "relu":
        value = tl.maximum(value, 0.0, propagate_nan=tl.PropagateNan.ALL)
    elif ACTIVATION != "none":
        factor = value if ACTIVATION == "relu6" else value + 3.0
        factor = tl.maximum(factor, 0.0, propagate_nan=tl.PropagateNan.ALL)
        factor = tl.minimum(factor, 6.0, propagate_nan=tl.PropagateNan.ALL)
        if ACTIVATION == "hardswish":
            value = value * factor * (1.0 / 6.0)
        elif ACTIVATION == "hardsigmoid":
            value = factor * (1.0 / 6.0)
        else:
            value = factor
    tl.store(values + at, value.to(values.dtype.element_ty), mask=inside)
