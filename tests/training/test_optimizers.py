"""Muon: singular values near one, and which parameters it moves."""

import torch
from transformers import LlamaForCausalLM

from refrag_rag.training.embedded import decoder_config
from refrag_rag.training.optimizers import build_optimizer, orthogonal
from refrag_rag.training.reading import PlainReader
from refrag_rag.training.settings import LoopSettings


def test_singular_values_come_near_one():
    torch.manual_seed(0)
    for shape in ((16, 16), (16, 48), (48, 16)):
        values = torch.linalg.svdvals(orthogonal(torch.randn(1, *shape)))
        assert float(values.min()) > 0.6
        assert float(values.max()) < 1.3


def test_the_direction_of_singular_vectors_stays():
    matrix = torch.randn(12, 20)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    found = left.T @ orthogonal(matrix[None])[0] @ right.T
    off = found - torch.diag(found.diag())
    assert float(off.abs().max()) < 1e-3


def test_blocks_matrices_go_to_muon_and_the_rest_to_adamw(tmp_path):
    decoder = LlamaForCausalLM(decoder_config(64, width=32, layers=1))
    settings = LoopSettings(out=tmp_path, optimizer="muon", lr=1e-2)
    optimizer = build_optimizer(PlainReader(decoder), settings)
    muon, adamw = optimizer.param_groups
    names = {p: name for name, p in decoder.named_parameters()}
    assert {names[p].rsplit(".", 2)[-2] for p in muon["params"]} == {
        *("q_proj", "k_proj", "v_proj", "o_proj"),
        *("gate_proj", "up_proj", "down_proj"),
    }
    assert len(muon["params"]) + len(adamw["params"]) == len(names)
    before = {name: p.detach().clone() for p, name in names.items()}
    ids = torch.randint(0, 64, (8, 40))  # enough tokens for gradients of full rank
    decoder(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    moved = {name for p, name in names.items() if not torch.equal(p, before[name])}
    assert moved == set(names.values())
    query = decoder.model.layers[0].self_attn.q_proj.weight
    moved_by = query.detach() - before["model.layers.0.self_attn.q_proj.weight"]
    assert 0.5e-2 * 0.2 < float(moved_by.square().mean().sqrt()) < 1.5e-2 * 0.2
