"""Servers that `serve_measure.py` measures rtseg beside, each with the same network.

    python tools/serve_peers.py plain BACKEND PORT     # FastAPI; JPEGs of the camera's size
    python tools/serve_peers.py webrtc BACKEND PORT    # aiortc; the newest frame of the track alone

They need what rtseg does not: python -m pip install fastapi aiortc
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import cv2
import numpy as np
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.websockets import WebSocket, WebSocketDisconnect

import rtseg
from rtseg.effects import ViewOptions, open_effect
from rtseg.frame import Frame, Image
from rtseg.segmenter import Segmenter
from rtseg.sinks.masks import palette, palette_png

BITS = 64
"""Rows at the top of a frame in which a camera writes its number; nothing is drawn there."""


class Network:
    """Draws the overlay of a frame, as anybody would write it."""

    def __init__(self, segmenter: Segmenter) -> None:
        self.segmenter = segmenter
        self._effect = open_effect(ViewOptions(), segmenter.labels)

    def overlay(self, image: Image) -> Image:
        """(H, W, 3) uint8 BGR with its classes in colour."""
        drawn = self._effect(Frame(image, 0, 0.0, 0.0), self.segmenter(image)).copy()
        drawn[:BITS] = image[:BITS]
        return drawn


def plain(network: Network) -> Starlette:
    """FastAPI: an image in, its mask out; and frames over a WebSocket."""
    from fastapi import FastAPI

    app, one = FastAPI(), asyncio.Lock()

    def read(content: bytes) -> Image:
        return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)

    def mask(content: bytes) -> bytes:
        found = network.segmenter(read(content))
        return palette_png(found.mask, palette(found.labels))

    def overlay(content: bytes) -> bytes:
        drawn = network.overlay(read(content))
        return cv2.imencode(".jpg", drawn, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()

    @app.post("/segment")
    async def segment(request: Request) -> Response:
        body = await request.body()
        async with one:  # a segmenter belongs to one thread at a time
            return Response(await run_in_threadpool(mask, body), media_type="image/png")

    @app.websocket("/stream")
    async def stream(socket: WebSocket) -> None:
        await socket.accept()
        try:
            while True:
                body = await socket.receive_bytes()
                await socket.send_bytes(await run_in_threadpool(overlay, body))
        except WebSocketDisconnect:
            pass

    @app.get("/")
    async def page() -> HTMLResponse:
        return HTMLResponse(PLAIN_PAGE)

    return app


PLAIN_PAGE = """<!doctype html><canvas id=canvas></canvas><script>
const video = document.createElement("video"), whole = document.createElement("canvas");
const pen = document.getElementById("canvas").getContext("2d", {alpha: false});
let fresh = false, at = 0, busy = false;
window.ages = [];
const socket = new WebSocket("ws://" + location.host + "/stream");
socket.binaryType = "arraybuffer";
async function send() {
  if (!fresh || busy || socket.readyState !== 1) return;
  busy = true; fresh = false;
  const sent = at;
  [whole.width, whole.height] = [video.videoWidth, video.videoHeight];
  whole.getContext("2d", {alpha: false}).drawImage(video, 0, 0);
  const blob = await new Promise((done) => whole.toBlob(done, "image/jpeg", 0.85));
  socket.onmessage = async ({data}) => {
    busy = false;
    send();
    const bitmap = await createImageBitmap(new Blob([data], {type: "image/jpeg"}));
    [pen.canvas.width, pen.canvas.height] = [bitmap.width, bitmap.height];
    pen.drawImage(bitmap, 0, 0);
    requestAnimationFrame(() => ages.push([performance.now(), performance.now() - sent]));
  };
  socket.send(await blob.arrayBuffer());
}
function each() {
  at = performance.now(); fresh = true; send();
  video.requestVideoFrameCallback(each);
}
const size = {width: {ideal: 1280}, height: {ideal: 720}};
navigator.mediaDevices.getUserMedia({video: size}).then(async (camera) => {
  video.srcObject = camera; video.muted = true; await video.play(); each();
});
</script>"""


def webrtc(network: Network) -> Starlette:
    """aiortc: the newest frame of a track, drawn, as a track that goes back."""
    from aiortc import MediaStreamTrack, RTCConfiguration, RTCPeerConnection, RTCSessionDescription
    from av import VideoFrame

    class Newest(MediaStreamTrack):  # type: ignore[misc]
        kind = "video"

        def __init__(self, track: Any) -> None:
            super().__init__()
            self._frame: Any = None
            self._came = asyncio.Event()
            self._task = asyncio.ensure_future(self._pull(track))

        async def _pull(self, track: Any) -> None:
            while True:
                self._frame = await track.recv()
                self._came.set()

        async def recv(self) -> Any:
            await self._came.wait()
            self._came.clear()
            frame = self._frame
            image = frame.to_ndarray(format="bgr24")
            drawn = VideoFrame.from_ndarray(
                await run_in_threadpool(network.overlay, image), format="bgr24"
            )
            drawn.pts, drawn.time_base = frame.pts, frame.time_base
            return drawn

    peers = set()

    async def offer(request: Request) -> Response:
        given = await request.json()
        peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        peers.add(peer)
        peer.on("track", lambda track: peer.addTrack(Newest(track)))
        await peer.setRemoteDescription(RTCSessionDescription(given["sdp"], given["type"]))
        await peer.setLocalDescription(await peer.createAnswer())
        mine = peer.localDescription
        return JSONResponse({"sdp": mine.sdp, "type": mine.type})

    async def page(request: Request) -> Response:
        return HTMLResponse(WEBRTC_PAGE)

    return Starlette(routes=[Route("/", page), Route("/offer", offer, methods=["POST"])])


WEBRTC_PAGE = """<!doctype html><canvas id=canvas></canvas><script>
const pen = document.getElementById("canvas").getContext("2d", {alpha: false});
const tiny = Object.assign(document.createElement("canvas"), {width: 8, height: 1});
const small = tiny.getContext("2d", {willReadFrequently: true});
window.ages = [];
const sent = new Map(); // number -> when the camera gave it
function number(video) { // eight black or white bits in the top rows
  const width = video.videoWidth / 8, height = video.videoHeight / 720 * 32;
  for (let bit = 0; bit < 8; bit++) {
    small.drawImage(video, (bit + 0.4) * width, height / 2, width / 5, height / 2, bit, 0, 1, 1);
  }
  const {data} = small.getImageData(0, 0, 8, 1);
  return [...Array(8).keys()].reduce((sum, bit) => sum + ((data[4 * bit + 1] > 127) << bit), 0);
}
function watch(stream, call) {
  const video = Object.assign(document.createElement("video"), {muted: true, srcObject: stream});
  const each = () => { call(video); video.requestVideoFrameCallback(each); };
  video.play(); video.requestVideoFrameCallback(each);
}
(async () => {
  const size = {width: {ideal: 1280}, height: {ideal: 720}};
  const camera = await navigator.mediaDevices.getUserMedia({video: size});
  watch(camera, (video) => sent.set(number(video), performance.now()));
  const peer = new RTCPeerConnection({iceServers: []});
  const [track] = camera.getTracks();
  track.contentHint = "detail"; // or the camera's picture is shrunk
  peer.addTrack(track, camera);
  peer.ontrack = ({track: back}) => watch(new MediaStream([back]), (video) => {
    [pen.canvas.width, pen.canvas.height] = [video.videoWidth, video.videoHeight];
    pen.drawImage(video, 0, 0);
    const since = sent.get(number(video));
    const done = () => ages.push([performance.now(), performance.now() - since]);
    const cycle = 4500; // numbers come again after 5 s: what is older cannot be told apart
    if (performance.now() - since < cycle) requestAnimationFrame(done);
  });
  await peer.setLocalDescription(await peer.createOffer());
  while (peer.iceGatheringState !== "complete") await new Promise((done) => setTimeout(done, 20));
  const body = JSON.stringify(peer.localDescription);
  const answer = await fetch("/offer", {method: "POST", body});
  await peer.setRemoteDescription(await answer.json());
})();
</script>"""


def main() -> None:
    """Serve until killed."""
    kind, backend, port = sys.argv[1:]
    make = {"plain": plain, "webrtc": webrtc}[kind]
    with rtseg.load("person", backend=backend) as segmenter:
        app = make(Network(segmenter))
        uvicorn.run(app, port=int(port), ws_per_message_deflate=False, log_level="critical")


if __name__ == "__main__":
    main()
