"""vLLM behind HTTP: its completions, one stream a prompt, over one server or several."""

import base64
import io
import json
from collections.abc import Callable, Generator, Sequence
from contextlib import aclosing
from functools import cached_property
from typing import Any

import httpx
import torch

from refrag_rag.errors import InputError, ServingError
from refrag_rag.generation.decode import Token
from refrag_rag.serving.remote import Job, Remote
from refrag_rag.serving.rows import Loop, Row

FULL = (429, 503)  # its queue is full, or it is starting
JSON = {"Content-Type": "application/json"}
UNREACHED = (httpx.ConnectError, httpx.ConnectTimeout)


class Server(Remote):
    """vLLM's OpenAI-compatible server, or several that serve the same decoder.

    A prompt goes to the server with the fewest of ours; to the next one, if that cannot be reached
    or its queue is full.

    Parameters
    ----------
    urls
        Base URLs, such as ``http://localhost:8000/v1``.
    model
        Name under which all of them serve the decoder. Default: the first one's first.
    api_key
        Sent as a bearer token.
    timeout
        Seconds to wait for a connection, and for each next token.

    Raises
    ------
    InputError
        If there is no URL, or one is none.
    """

    def __init__(
        self,
        urls: str | Sequence[str],
        *,
        model: str | None = None,
        api_key: str | None = None,
        timeout: float = 120.0,
    ) -> None:
        given = [urls] if isinstance(urls, str) else list(urls)
        if not given or not all(str(url).startswith(("http://", "https://")) for url in given):
            raise InputError(
                f"backend = {urls!r:.80}; expected base URLs such as http://HOST:8000/v1."
            )
        urls = [f"{url.rstrip('/').removesuffix('/v1')}/v1" for url in given]
        self._busy = dict.fromkeys(urls, 0)  # prompts being answered; in front who waited longest
        self._model, self._timeout = model, timeout
        self._client: dict[str, Any] = {
            "headers": {"Authorization": f"Bearer {api_key}"} if api_key else {},
            "timeout": timeout,
            "limits": httpx.Limits(max_connections=None),
            "verify": httpx.create_ssl_context(),  # once: it takes a while
        }
        self._loop = Loop()

    @property
    def window(self) -> int:
        """Positions of prompt and answer together; a server is asked when it is first needed."""
        return self._served[1]

    @cached_property
    def _served(self) -> tuple[str, int]:
        """Name and window, of the first server that answers."""
        for url in list(self._busy):
            try:
                with httpx.Client(**self._client) as client:
                    listed = client.get(f"{url}/models").raise_for_status().json()["data"]
                windows = {one["id"]: int(one["max_model_len"]) for one in listed}
                name = self._model or next(iter(windows))
                return name, windows[name]
            except (httpx.HTTPError, ValueError, LookupError, TypeError, StopIteration) as error:
                last = error
        raise ServingError(
            f"{', '.join(self._busy)}: no answer to which models there are, or not "
            f"{self._model or 'one'} ({type(last).__name__}: {last}); expected a vLLM server. "
            "Start one, or correct backend=."
        ) from last

    def _decode(
        self, jobs: Sequence[Job], stopped: Callable[[int], bool]
    ) -> Generator[list[Token], None, None]:
        common = {"model": self._served[0], "stream": True, "return_token_ids": True}
        bodies = [
            json.dumps({**common, **parameters, "prompt_embeds": _saved(embeds)})
            for embeds, parameters in jobs
        ]
        return self._loop.read([self._row(body) for body in bodies], stopped)

    async def _row(self, body: str) -> Row:
        last = ""
        async with httpx.AsyncClient(**self._client) as client:
            for url in sorted(self._busy, key=self._busy.__getitem__):
                self._busy[url] = self._busy.pop(url) + 1
                try:
                    async with client.stream(
                        "POST", f"{url}/completions", content=body, headers=JSON
                    ) as response:
                        if response.status_code not in FULL:
                            async with aclosing(_tokens(url, response)) as tokens:
                                async for ids in tokens:
                                    yield ids
                            return
                        last = _message(response.status_code, await response.aread())
                except UNREACHED as error:
                    last = repr(error)
                except httpx.TimeoutException as error:
                    raise ServingError(
                        f"{url} sent no token in {self._timeout} s. See how busy it is, or wait "
                        "longer: Server(URL, timeout=...)."
                    ) from error
                except httpx.HTTPError as error:
                    raise _broken(url, error) from error
                finally:
                    self._busy[url] -= 1
        raise ServingError(
            f"No server takes the prompt; the last one says: {last}. Ask again later, or start "
            f"more than {', '.join(self._busy)}."
        )


async def _tokens(url: str, response: httpx.Response) -> Row:
    """Token ids in a stream of server-sent events."""
    if response.status_code != httpx.codes.OK:
        said = _message(response.status_code, await response.aread())
        raise ServingError(f"{url} refuses the prompt: {said}")
    reason = None
    async for line in response.aiter_lines():
        event = line.removeprefix("data:").strip()
        if line.startswith("data:") and event != "[DONE]":
            try:
                choice = json.loads(event)["choices"][0]
                reason = choice["finish_reason"]
                yield choice["token_ids"]
            except (ValueError, LookupError, TypeError) as error:
                raise ServingError(
                    f"{url} sent {event!r:.300}; expected token ids of a vLLM server. See its log."
                ) from error
    if reason not in ("stop", "length"):
        raise _broken(url, reason)


def _broken(url: str, what: object) -> ServingError:
    return ServingError(f"{url} broke off ({what!r}). See its log, and ask again.")


def _message(status: int, body: bytes) -> str:
    """What a server says is wrong."""
    try:
        return f"{status}, {json.loads(body)['error']['message']}"
    except (ValueError, LookupError, TypeError):
        return f"{status}, {body.decode(errors='replace'):.300}"


def _saved(embeds: torch.Tensor) -> str:
    """What the server reads: base64 of what `torch.save` writes."""
    file = io.BytesIO()
    torch.save(embeds, file)
    return base64.b64encode(file.getvalue()).decode()
