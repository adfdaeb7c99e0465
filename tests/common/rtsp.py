"""An RTSP server for tests: a moving ball, 640x480 at 15 frames a second, as JPEG over RTP.

    rtsp.py PORT [PIPELINE]      serves rtsp://127.0.0.1:PORT/ball until it is killed
"""

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

Gst.init(None)
server = GstRtspServer.RTSPServer()
server.set_address("127.0.0.1")
server.set_service(sys.argv[1])
factory = GstRtspServer.RTSPMediaFactory()
factory.set_shared(True)
# JPEG over RTP carries YUV only.
BALL = (
    "videotestsrc is-live=true pattern=ball ! video/x-raw,format=I420,width=640,height=480,framerate=15/1"
    " ! jpegenc ! rtpjpegpay name=pay0"
)
factory.set_launch(f"( {sys.argv[2] if len(sys.argv) > 2 else BALL} )")
server.get_mount_points().add_factory("/ball", factory)
server.attach(None)
GLib.MainLoop().run()
