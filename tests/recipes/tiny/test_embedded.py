"""The recipe's new decoder: what its attention does before it has learnt anything."""

import torch

from recipes.tiny.shape import build_decoder, decoder_config


def test_a_new_decoder_attends_to_alike_tokens_and_copies_them():
    torch.manual_seed(0)
    config = decoder_config(256, layers=1)
    config._attn_implementation = "eager"
    decoder = build_decoder(config).eval()
    ids = torch.randperm(250)[None, :24]
    ids[0, -1] = ids[0, 17]  # said before
    with torch.no_grad():
        output = decoder(ids, output_attentions=True)
    attention = output.attentions[0][0, :, -1, :-1].mean(0)  # from the last token, (T - 1,)
    assert attention.argmax() == 17
    attends = decoder.model.layers[0].self_attn
    copied = attends.o_proj.weight @ attends.v_proj.weight  # (width, width)
    assert copied.diag().mean() > 10 * copied.abs().mean()
