"""What a style is, in numbers: statistics of regions, their gradients and losses, against numpy."""

import numpy as np
import pytest
import torch

from impasto.training.losses import gram_matrix
from impasto.training.style_targets import CovarianceTarget, GramTarget, region_gram, region_moments


def features_and_weights(seed, channels=5, height=7, width=9):
    generator = torch.Generator().manual_seed(seed)
    features = torch.rand(1, channels, height, width, generator=generator)
    weights = torch.rand(1, 1, height, width, generator=generator)
    return features, weights / weights.sum()


def test_region_statistics_are_those_of_numpy():
    features, weights = features_and_weights(0)
    f, w = features[0].reshape(5, -1).double().numpy(), weights.reshape(-1).double().numpy()
    assert np.allclose(region_gram(features, weights)[0], (f * w) @ f.T / 5, rtol=1e-5)
    mean, covariance = region_moments(features, weights)
    assert np.allclose(mean, f @ w, rtol=1e-5)
    assert np.allclose(covariance, np.cov(f, aweights=w, ddof=0), rtol=1e-3, atol=1e-6)
    even = torch.full_like(weights, 1 / 63)
    assert torch.allclose(region_gram(features, even), gram_matrix(features))
    assert all(
        torch.allclose(a, b, atol=1e-6)
        for a, b in zip(region_moments(features, even), region_moments(features, None), strict=True)
    )


def test_the_gradient_of_moments_is_written_down_right():
    features, _ = features_and_weights(3)
    features = torch.cat([features, features.flip(2)]).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: region_moments(x, None), (features,))


def test_covariance_loss_is_the_wasserstein_distance():
    (a, _), (b, _) = features_and_weights(1), features_and_weights(2, height=8)
    x, y = (f[0].reshape(5, -1).double().numpy() for f in (a, b))
    (m, s), (n, t) = ((v.mean(1), np.cov(v, ddof=0)) for v in (x, y))

    def root(matrix):
        values, vectors = np.linalg.eigh(matrix)
        return vectors * np.sqrt(values.clip(0)) @ vectors.T

    wanted = ((m - n) ** 2).sum() + np.trace(s + t - 2 * root(root(t) @ s @ root(t)))
    wanted /= (n**2).sum() + np.trace(t)
    target = CovarianceTarget.of(b, None)
    assert float(target.loss(a, None)) == pytest.approx(wanted, rel=1e-3)
    assert float(target.loss(b, None)) == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("kind", [GramTarget, CovarianceTarget])
def test_the_loss_of_a_batch_is_the_mean_of_its_pictures(kind):
    target = kind.of(features_and_weights(4)[0], None)
    batch = torch.cat([features_and_weights(seed)[0] for seed in (1, 2, 3)])
    one_by_one = [float(target.loss(features[None], None)) for features in batch]
    assert len({round(loss, 6) for loss in one_by_one}) == 3
    assert float(target.loss(batch, None)) == pytest.approx(np.mean(one_by_one), rel=1e-4)


@pytest.mark.parametrize("kind", [GramTarget, CovarianceTarget])
def test_gradients_are_right_and_finite_for_dead_channels(kind):
    features, weights = features_and_weights(3)
    target = kind.of(features_and_weights(4)[0].double(), None)
    x = features.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda v: target.loss(v, weights.double()), (x,), atol=1e-5, rtol=1e-3)
    dead = features.clone()
    dead[:, 2:] = 0
    dead.requires_grad_()
    kind.of(features_and_weights(4)[0] * (torch.arange(5) < 2)[None, :, None, None], None).loss(dead, None).backward()
    assert torch.isfinite(dead.grad).all()
