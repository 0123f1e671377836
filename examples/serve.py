"""A trained run behind HTTP: requests that come within five milliseconds are drawn as one batch."""

import asyncio
import os

import fastapi

import pyflowk
from pyflowk import training

app = fastapi.FastAPI()
model = pyflowk.frozen(training.load_model(os.environ.get("RUN", "runs/moons"))[0])
waiting: list[tuple[int, asyncio.Future]] = []


@app.get("/sample")
async def sample(n: int = fastapi.Query(1, ge=1, le=1000)) -> list:
    mine: asyncio.Future = asyncio.get_running_loop().create_future()
    waiting.append((n, mine))
    if len(waiting) == 1:  # the first of a batch waits for others, and draws for all
        await asyncio.sleep(0.005)
        batch, waiting[:] = [*waiting], []
        counts = [count for count, _ in batch]
        try:
            drawn = await asyncio.to_thread(training.sample, model, sum(counts))
        except Exception as error:  # all that wait are told
            for _, future in batch:
                future.set_exception(error)
        else:
            for (_, future), rows in zip(batch, drawn.split(counts), strict=True):
                future.set_result(rows.tolist())
    return await mine
