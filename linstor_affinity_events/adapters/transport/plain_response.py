"""Responses whose headers are read without aiohttp's parsers, for all sessions of this service."""

import aiohttp
from aiohttp import hdrs


class PlainResponse(aiohttp.ClientResponse):
    """Takes the media type from its header by one cut, and no parameters.

    aiohttp uses Python's email parser for these. Some headers make that raise ValueError,
    IndexError or RecursionError, and others take it half a second.
    """

    @property
    def content_type(self) -> str:
        """The media type in lower case, of whatever form; empty if there is none."""
        return self.headers.get(hdrs.CONTENT_TYPE, "").partition(";")[0].strip().lower()

    @property
    def charset(self) -> None:
        """None, whatever the header says: the bodies of LINSTOR and Kubernetes are UTF-8."""
        return

    def get_encoding(self) -> str:
        return "utf-8"
