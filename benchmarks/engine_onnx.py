"""TrOCR in ONNX Runtime: the side of `benchmarks.engine` that its ONNX files are made for.

Three graphs, as optimum's for encoder and decoder: the encoder; keys and values of cross-attention, once a line; a step
of the decoder with its past. The encoder is transformers' own; the step is written out here over transformers' weights,
so that a legacy trace exports it. int8 is onnxruntime's dynamic quantisation of the products with weights, by channel.

The loops are the plainest: greedy, and beams that stay in the batch axis, whose self-attention cache is reordered at
every step and whose cross-attention is repeated for each of them, as in optimum with transformers' `generate`. Arrays
stay ONNX Runtime's own between two steps. Every line is forced to the same number of tokens, so that no beam ends.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from trocr_jax.config import TrOCRConfig

OPSET = 17


class OnnxRuntime:
    """ONNX Runtime on the CPU, in f32 or with dynamic int8 quantisation."""

    def __init__(
        self, folder: Path, *, tokens: int, num_beams: int, threads: int, dtype: str, int8: bool = False
    ) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise SystemExit("onnxruntime is not installed: pip install 'trocr-jax[onnx]'") from error
        if dtype != "float32":
            raise SystemExit("onnxruntime is measured in float32 and int8 on the CPU: leave --dtype out")
        graphs = export(folder)
        if int8:
            graphs = {name: quantized(path) for name, path in graphs.items()}
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.sessions = {
            name: onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            for name, path in graphs.items()
        }
        self.tokens, self.beams = tokens, num_beams
        self.value = onnxruntime.OrtValue.ortvalue_from_numpy
        config = TrOCRConfig.from_json(folder / "config.json")
        self.start, self.end = config.decoder_start_token_id, config.eos_token_id
        self.layers, self.heads = config.decoder.num_layers, config.decoder.num_heads
        self.head_dim = config.decoder.head_dim

    def put(self, pixels: np.ndarray) -> np.ndarray:
        return pixels

    def encode(self, pixels: np.ndarray) -> Any:
        given = {"pixels": self.value(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))}
        (memory,) = self.sessions["encoder"].run_with_ort_values(["memory"], given)
        return memory

    def read(self, pixels: np.ndarray) -> np.ndarray:
        return self.decode(self.encode(pixels))

    def decode(self, memory: Any, *, prefill: bool = False) -> np.ndarray:
        names = [f"{kind}{i}" for i in range(self.layers) for kind in ("ck", "cv")]
        cross = dict(zip(names, self.sessions["prime"].run_with_ort_values(names, {"memory": memory}), strict=True))
        lines, k = memory.shape()[0], self.beams
        if k > 1:
            cross = {name: self.value(np.repeat(value.numpy(), k, axis=0)) for name, value in cross.items()}
        past_names = [f"{kind}{i}" for i in range(self.layers) for kind in ("k", "v")]
        empty = np.zeros((lines * k, self.heads, 0, self.head_dim), np.float32)
        past = {name: self.value(empty) for name in past_names}
        last = np.full((lines * k, 1), self.start, np.int64)
        texts = np.zeros((lines * k, 0), np.int64)
        scores = np.where(np.arange(k) == 0, 0.0, -1e9)[None].repeat(lines, axis=0).astype(np.float32)
        outputs = ["logits", *(f"new_{name}" for name in past_names)]
        for position in range(1 if prefill else self.tokens):
            given = {"tokens": self.value(last), "position": self.value(np.array([position], np.int64))}
            logits, *new = self.sessions["step"].run_with_ort_values(outputs, given | past | cross)
            past = dict(zip(past_names, new, strict=True))
            rows = logits.numpy()[:, 0]
            rows[:, self.end] = -np.inf
            if k == 1:
                last = rows.argmax(axis=-1)[:, None]
                texts = np.concatenate([texts, last], axis=1)
                continue
            rows = rows - rows.max(axis=-1, keepdims=True)
            rows -= np.log(np.exp(rows).sum(axis=-1, keepdims=True))
            totals = (rows.reshape(lines, k, -1) + scores[..., None]).reshape(lines, -1)
            best = np.argpartition(-totals, k, axis=-1)[:, :k]
            best = np.take_along_axis(best, np.argsort(-np.take_along_axis(totals, best, 1), axis=-1), 1)
            scores = np.take_along_axis(totals, best, 1)
            parents = (best // rows.shape[-1] + np.arange(lines)[:, None] * k).reshape(-1)
            last = (best % rows.shape[-1]).reshape(-1, 1)
            texts = np.concatenate([texts[parents], last], axis=1)
            if (parents != np.arange(lines * k)).any():
                past = {name: self.value(value.numpy()[parents]) for name, value in past.items()}
        return texts.reshape(lines, k, -1)[:, 0]


def export(folder: Path) -> dict[str, Path]:
    """The three graphs beside the weights of `folder`, made if they are not there."""
    paths = {name: folder / f"{name}.onnx" for name in ("encoder", "prime", "step")}
    if not all(path.exists() for path in paths.values()):
        import torch
        from transformers import VisionEncoderDecoderModel

        model = VisionEncoderDecoderModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tracing warns of what stays as it was while traced
            _export(model.eval(), paths)
    return paths


def _export(model: Any, paths: dict[str, Path]) -> None:
    import torch

    size = model.config.encoder.image_size
    height, width = (size, size) if isinstance(size, int) else size
    config = model.config.decoder
    encoder, prime, step = _modules(model)
    batch = {0: "B"}

    def save(module: Any, arguments: tuple[Any, ...], name: str, given: list[str], out: list[str], axes: Any) -> None:
        torch.onnx.export(
            module,
            arguments,
            str(paths[name]),
            input_names=given,
            output_names=out,
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
            external_data=True,
        )

    pixels = torch.zeros(2, 3, height, width)
    save(encoder, (pixels,), "encoder", ["pixels"], ["memory"], {"pixels": batch, "memory": batch})
    memory, layers = encoder(pixels), range(config.decoder_layers)
    cross_names = [f"{kind}{i}" for i in layers for kind in ("ck", "cv")]
    save(prime, (memory,), "prime", ["memory"], cross_names, dict.fromkeys(("memory", *cross_names), batch))
    cross, past_names = prime(memory), [f"{kind}{i}" for i in layers for kind in ("k", "v")]
    heads = config.decoder_attention_heads
    past = [torch.zeros(2, heads, 3, config.d_model // heads) for _ in past_names]
    new_names = [f"new_{name}" for name in past_names]
    save(
        step,
        (torch.zeros(2, 1, dtype=torch.int64), torch.tensor([3]), *past, *cross),
        "step",
        ["tokens", "position", *past_names, *cross_names],
        ["logits", *new_names],
        dict.fromkeys(("tokens", *cross_names, "logits"), batch)
        | {name: {0: "B", 2: "past"} for name in past_names}
        | {name: {0: "B", 2: "now"} for name in new_names},
    )


def _modules(model: Any) -> tuple[Any, Any, Any]:
    """Encoder, keys and values of cross-attention, and a step, as torch modules over the weights of `model`."""
    import torch
    from torch import nn

    decoder, config = model.decoder.model.decoder, model.config.decoder
    if not config.use_learned_position_embeddings:
        raise SystemExit("the ONNX side knows learned positions only")
    heads, scale = config.decoder_attention_heads, float(config.d_model) ** 0.5 if config.scale_embedding else 1.0

    def split(x: Any) -> Any:  # [B, T, D] -> [B, N, T, H]
        return x.view(x.shape[0], -1, heads, config.d_model // heads).transpose(1, 2)

    def attend(attention: Any, x: Any, key: Any, value: Any) -> Any:
        query = split(attention.q_proj(x)) * (config.d_model // heads) ** -0.5
        weights = torch.softmax(query @ key.transpose(2, 3), dim=-1)
        return attention.out_proj((weights @ value).transpose(1, 2).reshape(x.shape))

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model.encoder

        def forward(self, pixels: Any) -> Any:
            return self.inner(pixels).last_hidden_state

    class Prime(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = decoder.layers

        def forward(self, memory: Any) -> Any:
            attentions = [layer.encoder_attn for layer in self.layers]
            return [split(p(memory)) for a in attentions for p in (a.k_proj, a.v_proj)]

    class Step(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.head = decoder, model.decoder.output_projection

        def forward(self, tokens: Any, position: Any, *arrays: Any) -> Any:
            past, cross = arrays[: len(arrays) // 2], arrays[len(arrays) // 2 :]
            table = self.inner.embed_tokens.weight
            x = table[tokens] * scale + self.inner.embed_positions.weight[position + 2][None]
            x = self.inner.layernorm_embedding(x) if config.layernorm_embedding else x
            new = []
            for i, layer in enumerate(self.inner.layers):
                a = layer.self_attn
                key = torch.cat([past[2 * i], split(a.k_proj(x))], dim=2)
                value = torch.cat([past[2 * i + 1], split(a.v_proj(x))], dim=2)
                new += [key, value]
                x = layer.self_attn_layer_norm(x + attend(a, x, key, value))
                y = attend(layer.encoder_attn, x, cross[2 * i], cross[2 * i + 1])
                x = layer.encoder_attn_layer_norm(x + y)
                x = layer.final_layer_norm(x + layer.fc2(layer.activation_fn(layer.fc1(x))))
            return (self.head(x), *new)

    return Encoder().eval(), Prime().eval(), Step().eval()


def quantized(path: Path) -> Path:
    """The graph with weights of matrix products in int8, by channel, and their other factor quantised as it comes."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    made = path.with_name(path.stem + "-int8.onnx")
    if not made.exists():
        quantize_dynamic(
            path, made, per_channel=True, weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul", "Gemm"]
        )
    return made
