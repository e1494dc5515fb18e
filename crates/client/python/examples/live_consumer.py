"""A consumer of live samples with asyncio: a running sum image, made from the stream while the scan goes on."""

# %% Every sample comes exactly once and in order, also after a broken connection; a slow consumer slows nobody.
import asyncio

import beamwright as bw
import numpy as np


async def sum_image() -> np.ndarray:
    async with bw.aio.control(holder="sum image") as control:
        plan = bw.Plan(fraction=0.25, dwell=2 * bw.us, pixels=256, estimator=bw.Estimator.NEAREST)
        acquisition = await control.acquire(plan)
        image = np.zeros((256, 256))
        async for event in acquisition.events(paths=False):
            if isinstance(event, bw.Gap):
                print(f"positions {event.first_sequence} + {event.n_positions} have no samples: {event.cause}")
                continue
            np.add.at(image, (event.row.astype(int), event.col.astype(int)), event.signal())
        await acquisition.wait()
        return image


# %%
image = asyncio.run(sum_image())
print(f"{np.count_nonzero(image)} pixels have counts, {image.sum():.0f} in all")
