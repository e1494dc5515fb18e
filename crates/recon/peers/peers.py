"""Public estimators on what `beamwright bench recon --export DIR` wrote: the same samples, the same truth.

usage: peers.py [--methods cubic,biharmonic,bm3d] FOLDER...    (packages: numpy scipy scikit-image bm3d)

Prints PSNR (peak 1: the truth goes from 0 to 1) and CPU seconds. `bm3d` is for whole scans with counts; it uses the Anscombe
transform with the closed-form exact unbiased inverse (Makitalo & Foi, IEEE Trans. Image Process. 20, 2697, 2011).
"""
import argparse, os, time
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")
import numpy as np


def cubic(samples):
    from scipy.interpolate import griddata
    seen = np.argwhere(~np.isnan(samples))
    values = samples[~np.isnan(samples)]
    grid = tuple(np.mgrid[: samples.shape[0], : samples.shape[1]])
    found = griddata(seen, values, grid, "cubic")
    outside = np.isnan(found)
    found[outside] = griddata(seen, values, grid, "nearest")[outside]
    return found


def biharmonic(samples):
    from skimage.restoration import inpaint_biharmonic
    return inpaint_biharmonic(np.nan_to_num(samples), np.isnan(samples))


def bm3d(samples, low, counts_per_unit):
    """VST + BM3D; several binnings are tried and the best by the truth is printed: an upper bound of what a user gets."""
    from bm3d import bm3d as denoise
    counts = np.maximum((samples - low) * counts_per_unit, 0)
    best = []
    for b in (1, 2, 4):
        rows, cols = (n // b * b for n in counts.shape)
        binned = counts[:rows, :cols].reshape(rows // b, b, cols // b, b).sum((1, 3))
        root = 2 * np.sqrt(binned + 3 / 8)
        high = root.max()
        d = np.maximum(denoise(root / high, sigma_psd=1 / high) * high, 1e-3)
        smallest = 2 * np.sqrt(3 / 8)
        inverse = d**2 / 4 + np.sqrt(1.5) / 4 / d - 11 / 8 / d**2 + 5 * np.sqrt(1.5) / 8 / d**3 - 1 / 8
        inverse = np.where(d <= smallest, 0, inverse) / b**2
        if b > 1:
            from scipy.ndimage import zoom
            inverse = zoom(inverse, b, order=3, mode="nearest", grid_mode=True)
        whole = np.full(counts.shape, inverse.mean())
        whole[:rows, :cols] = inverse
        best.append(whole / counts_per_unit + low)
    return best


def psnr(truth, found):
    return 10 * np.log10(1 / np.mean((truth - found) ** 2))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--methods", default="cubic")
    parser.add_argument("folders", nargs="+")
    options = parser.parse_args()
    for folder in options.folders:
        truth, samples, mean = (
            np.load(f"{folder}/{name}.npy").astype(float) for name in ("truth", "samples", "mean")
        )
        line = f"{os.path.basename(folder.rstrip('/')):36s} ours {psnr(truth, mean):6.2f}"
        for method in options.methods.split(","):
            start = time.process_time()
            if method == "bm3d":
                low, counts_per_unit = np.load(f"{folder}/units.npy")
                scores = [psnr(truth, found) for found in bm3d(samples, low, counts_per_unit)]
                score = max(scores)
            else:
                score = psnr(truth, {"cubic": cubic, "biharmonic": biharmonic}[method](samples))
            line += f"  {method} {score:6.2f} ({time.process_time() - start:.2f} s)"
        print(line, flush=True)


if __name__ == "__main__":
    main()
