"""Tokenizers against sentencepiece, the tokenizers library and transformers itself."""

import io
import json
import pickle
import subprocess
import sys
import unicodedata
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import sentencepiece
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast, RobertaTokenizer, TrOCRProcessor, XLMRobertaTokenizer
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from train.data.encode import Tokens
from trocr_jax.errors import TokenizerError
from trocr_jax.tokenizer import character_tokenizer, decode, load_tokenizer, save_tokenizer
from trocr_jax.tokenizer_spelling import spellings

TEXT = [
    "industry, ' Mr. Brown commented icily . ' Let us have a",
    "the quick brown fox jumps over the lazy dog, and 12,345.67 more!",
    "Größe, Straße, naïve café; « déjà vu », señor, ação",
    "A MOVE to stop Mr. Gaitskell from nominating any more Labour life Peers",
    "e-mail: someone@example.org (tel. +49 30 1234567) – 50 % off…",
]
FILES = {"roberta": ("vocab.json", "merges.txt"), "xlm_roberta": ("sentencepiece.bpe.model",)}  # as published
SAMPLES = [*TEXT, "", "a", "   two  spaces ", "don't , really .", "ünknown ☃ 漢字", "</s> <pad>x"]


@pytest.fixture(scope="module")
def roberta(tmp_path_factory) -> Path:
    """A byte-level BPE on disk as the base and large checkpoints have it: vocab.json and merges.txt."""
    folder = tmp_path_factory.mktemp("roberta")
    bpe = tokenizers.ByteLevelBPETokenizer()
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    bpe.train_from_iterator(TEXT * 3, vocab_size=420, min_frequency=2, special_tokens=specials, show_progress=False)
    bpe.save_model(str(folder))
    return folder


@pytest.fixture(scope="module")
def xlm_roberta(tmp_path_factory) -> Path:
    """A sentencepiece model on disk as the small checkpoints have it: sentencepiece.bpe.model."""
    folder = tmp_path_factory.mktemp("xlm_roberta")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT * 5), model_writer=model, vocab_size=105, model_type="unigram", minloglevel=2
    )
    (folder / "sentencepiece.bpe.model").write_bytes(model.getvalue())
    return folder


def copy(source: Path, target: Path, *names: str) -> Path:
    target.mkdir(exist_ok=True)
    for name in names:
        (target / name).write_bytes((source / name).read_bytes())
    return target


def special_ids(tokenizer) -> tuple[int, int, int, int]:
    return tokenizer.bos_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id


# --- published layouts


def test_vocab_and_merges_alone(roberta, tmp_path):
    folder = copy(roberta, tmp_path / "model", "vocab.json", "merges.txt")
    tokenizer = load_tokenizer(folder)
    assert special_ids(tokenizer) == (0, 1, 2, 3)
    bpe = tokenizers.ByteLevelBPETokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    theirs = RobertaTokenizer.from_pretrained(str(folder))
    for text in SAMPLES:
        ids = tokenizer.encode(text)
        assert ids == theirs.encode(text)
        assert tokenizer.decode(ids) == theirs.decode(ids)
        if "<" not in text:
            assert ids == [0, *bpe.encode(text).ids, 2]
            assert decode(tokenizer, [ids]) == [text]


def test_a_sentencepiece_model_alone(xlm_roberta, tmp_path):
    folder = copy(xlm_roberta, tmp_path / "model", "sentencepiece.bpe.model")
    tokenizer = load_tokenizer(folder)
    assert special_ids(tokenizer) == (0, 1, 2, 3)
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "sentencepiece.bpe.model"))
    theirs = XLMRobertaTokenizer.from_pretrained(str(folder))
    for text in SAMPLES:
        ids = tokenizer.encode(text)
        assert ids == theirs.encode(text)
        assert decode(tokenizer, [ids]) == [theirs.decode(ids, skip_special_tokens=True)]
        if "<" not in text and "☃" not in text:
            # Published ids are the piece's id + 1; sentencepiece's own unknown piece 0 is <unk>, 3.
            assert ids == [0, *(piece + 1 if piece else 3 for piece in pieces.encode(text)), 2]
            assert decode(tokenizer, [ids]) == [pieces.decode(pieces.encode(text))]
    for piece in range(3, len(pieces)):
        assert decode(tokenizer, [[0, piece + 1, 2]]) == [pieces.decode([piece])]


@pytest.mark.parametrize("settings", [{}, {"tokenizer_class": "RobertaTokenizer"}, {"tokenizer_class": "NoSuchClass"}])
def test_tokenizer_json_with_and_without_its_settings(roberta, tmp_path, settings):
    whole = load_tokenizer(roberta)
    save_tokenizer(whole, tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    if settings:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = load_tokenizer(tmp_path)
    assert special_ids(tokenizer) == (0, 1, 2, 3)
    for text in SAMPLES:
        assert tokenizer.encode(text) == whole.encode(text)
        assert decode(tokenizer, [tokenizer.encode(text)]) == decode(whole, [whole.encode(text)])


@pytest.mark.parametrize("family", ["roberta", "xlm_roberta"])
def test_labels_have_the_ids_of_transformers(family: str, request, tmp_path):
    """Whatever the file of the tokenizer says of truncation and padding."""
    folder = copy(request.getfixturevalue(family), tmp_path / "model", *FILES[family])
    save_tokenizer(load_tokenizer(folder), tmp_path / "saved")
    file = tmp_path / "saved" / "tokenizer.json"
    library = tokenizers.Tokenizer.from_file(str(file))
    library.enable_truncation(3)
    library.enable_padding(length=64)
    library.save(str(file))
    tokenizer, whole = load_tokenizer(tmp_path / "saved"), load_tokenizer(folder)
    tokens = pickle.loads(pickle.dumps(Tokens(tokenizer)))
    for text in TEXT:
        assert tokens(text) == whole(text).input_ids[:-1]
    assert pickle.loads(pickle.dumps(tokens))(TEXT[0]) == whole(TEXT[0]).input_ids[:-1]


def test_settings_as_the_published_folders_have_them(roberta, xlm_roberta, tmp_path):
    """Written by transformers 4: special tokens as typed objects, a class name, a special_tokens_map.json."""

    def added(content: str, lstrip: bool = False) -> dict:
        return {"content": content, "single_word": False, "lstrip": lstrip, "rstrip": False, "normalized": True}

    tokens = {"bos_token": "<s>", "eos_token": "</s>", "sep_token": "</s>", "cls_token": "<s>", "pad_token": "<pad>"}
    typed = {key: {**added(token), "__type": "AddedToken"} for key, token in tokens.items()}
    typed |= {"unk_token": {**added("<unk>"), "__type": "AddedToken"}}
    typed |= {"mask_token": {**added("<mask>", lstrip=True), "__type": "AddedToken"}}
    base = copy(roberta, tmp_path / "base", "vocab.json", "merges.txt")
    settings = {**typed, "errors": "replace", "add_prefix_space": False, "trim_offsets": True}
    settings |= {
        "special_tokens_map_file": None,
        "name_or_path": "roberta-large",
        "tokenizer_class": "RobertaTokenizer",
    }
    (base / "tokenizer_config.json").write_text(json.dumps(settings))
    (base / "special_tokens_map.json").write_text(json.dumps({**tokens, "mask_token": added("<mask>", lstrip=True)}))
    small = copy(xlm_roberta, tmp_path / "small", "sentencepiece.bpe.model")
    settings = {**tokens, "unk_token": "<unk>", "mask_token": typed["mask_token"], "sp_model_kwargs": {}}
    settings |= {"special_tokens_map_file": None, "tokenizer_class": "XLMRobertaTokenizer"}
    (small / "tokenizer_config.json").write_text(json.dumps(settings))
    for folder, plain in ((base, roberta), (small, xlm_roberta)):
        (folder / "config.json").write_text('{"model_type": "vision-encoder-decoder"}')
        tokenizer, bare = load_tokenizer(folder), load_tokenizer(plain)
        assert special_ids(tokenizer) == (0, 1, 2, 3)
        for text in SAMPLES:
            assert tokenizer.encode(text) == bare.encode(text)


@pytest.mark.parametrize("clean_up", [None, False, True])
def test_decode_is_what_the_processor_of_transformers_gives(roberta, xlm_roberta, tmp_path, clean_up):
    """Spaces before punctuation are the hard case: some published settings ask for their removal."""
    bpe = copy(roberta, tmp_path / "bpe", "vocab.json", "merges.txt")
    unigram = copy(xlm_roberta, tmp_path / "unigram", "sentencepiece.bpe.model")
    for folder, cls in ((bpe, "RobertaTokenizer"), (unigram, "XLMRobertaTokenizer")):
        settings = {"tokenizer_class": cls} | ({} if clean_up is None else {"clean_up_tokenization_spaces": clean_up})
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
        theirs = TrOCRProcessor(ViTImageProcessorPil(), AutoTokenizer.from_pretrained(str(folder)))
        tokenizer = load_tokenizer(folder)
        rows = [tokenizer.encode(text) for text in SAMPLES]
        ids = np.full((len(rows), max(map(len, rows))), tokenizer.pad_token_id)
        for row, values in zip(ids, rows, strict=True):
            row[: len(values)] = values
        texts = decode(tokenizer, ids)
        assert texts == theirs.batch_decode(ids, skip_special_tokens=True)
        assert decode(tokenizer, jnp.asarray(ids)[:, None]) == texts
        kept = "don't , really ." in texts
        assert kept == (cls == "RobertaTokenizer" or not clean_up)


def test_leading_axes_are_flattened_in_order():
    tokenizer = character_tokenizer("abcdef")
    ids = np.arange(4, 10).reshape(1, 3, 2)
    assert decode(tokenizer, ids) == ["ab", "cd", "ef"]
    assert decode(tokenizer, ids[0, 0]) == ["ab"]
    assert decode(tokenizer, np.zeros((0, 5), int)) == []
    assert decode(tokenizer, np.zeros((2, 0), int)) == ["", ""]


def test_saved_tokenizers_are_loaded_by_transformers_too(roberta, xlm_roberta, tmp_path):
    for number, folder in enumerate((roberta, xlm_roberta)):
        tokenizer = load_tokenizer(folder)
        target = tmp_path / "new" / str(number)
        save_tokenizer(tokenizer, target)
        for again in (load_tokenizer(target), AutoTokenizer.from_pretrained(str(target))):
            for text in SAMPLES:
                assert again.encode(text) == tokenizer.encode(text)
                assert decode(again, [again.encode(text)]) == decode(tokenizer, [tokenizer.encode(text)])


# --- bad folders


def test_folders_without_a_tokenizer(roberta, tmp_path):
    with pytest.raises(TokenizerError, match="not a folder") as caught:
        load_tokenizer(tmp_path / "missing")
    assert str(tmp_path / "missing") in str(caught.value)
    (tmp_path / "vocab.json").write_bytes((roberta / "vocab.json").read_bytes())
    with pytest.raises(TokenizerError, match=r"tokenizer\.json.*merges\.txt.*sentencepiece\.bpe\.model") as caught:
        load_tokenizer(tmp_path)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer.json": b"{"},
        {"tokenizer.json": b"{}"},
        {"tokenizer.json": b"\xff\xfe"},
        {"tokenizer.json": b""},
        {"vocab.json": b"[]", "merges.txt": b"#version: 0.2\n"},
        {"vocab.json": b'{"a": "b"}', "merges.txt": b"#version: 0.2\n"},
        {"vocab.json": b'{"a": 0}', "merges.txt": b"x y\n"},
        {"sentencepiece.bpe.model": b"not a model"},
        {"sentencepiece.bpe.model": b""},
    ],
)
def test_damaged_files_are_named_by_their_folder(files, tmp_path):
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(TokenizerError) as caught:
        load_tokenizer(tmp_path)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("content", ["{", "[1]", '"x"'])
def test_damaged_settings_are_named(roberta, tmp_path, content):
    folder = copy(roberta, tmp_path, "vocab.json", "merges.txt")
    (folder / "tokenizer_config.json").write_text(content)
    with pytest.raises(TokenizerError, match=r"tokenizer_config\.json"):
        load_tokenizer(folder)


def test_missing_special_tokens_are_named(tmp_path):
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<s>": 0, "a": 1, "<unk>": 2}, "<unk>"))
    backend.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(TokenizerError, match="pad_token, eos_token"):
        load_tokenizer(tmp_path)


def test_code_of_the_folder_is_not_run(roberta, tmp_path):
    folder = copy(roberta, tmp_path / "model", "vocab.json", "merges.txt")
    trap = tmp_path / "ran"
    (folder / "custom.py").write_text(f"open({str(trap)!r}, 'w')\nclass Custom: ...\n")
    settings = {"tokenizer_class": "Custom", "auto_map": {"AutoTokenizer": ["custom.Custom", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    assert load_tokenizer(folder).eos_token_id == 2
    assert not trap.exists()


def test_importing_the_module_imports_neither_transformers_nor_jax():
    code = "import sys, trocr_jax.errors, importlib.util as u\n"
    code += "spec = u.find_spec('trocr_jax.tokenizer'); module = u.module_from_spec(spec)\n"
    code += "before = set(sys.modules); spec.loader.exec_module(module)\n"
    code += "new = set(sys.modules) - before\n"
    code += "assert not {'transformers', 'tokenizers', 'torch', 'jax'} & new, new"
    root = Path(__file__).resolve().parent.parent
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)


# --- the character tokenizer


ALPHABET = "".join(map(chr, range(32, 127))) + "äöüßÄÖÜéèêçñãõ¿¡«»“”„‘’–—…€\n\t"
CHARACTERS = character_tokenizer(ALPHABET)


def test_ids_of_characters():
    tokenizer = character_tokenizer("ab c")
    assert special_ids(tokenizer) == (0, 1, 2, 3)
    assert len(tokenizer) == 8
    assert tokenizer.encode("ab") == [4, 5, 2]
    assert tokenizer.encode("c  a") == [7, 6, 6, 4, 2]
    assert tokenizer.encode("") == [2]
    assert tokenizer.encode("axb") == [4, 3, 5, 2]
    assert list(tokenizer("ab")) == ["input_ids", "attention_mask"]
    assert decode(tokenizer, [[2, 4, 5, 6, 7, 2, 1, 1]]) == ["ab c"]
    assert decode(tokenizer, [[3, 4, 99]]) == ["a"]


@settings(max_examples=300, deadline=None)
@given(st.text(ALPHABET, max_size=60))
def test_any_text_over_the_alphabet_comes_back_exactly(text):
    ids = CHARACTERS.encode(text)
    assert ids == [4 + ALPHABET.index(character) for character in text] + [2]
    assert decode(CHARACTERS, [ids]) == [text]


@pytest.mark.parametrize(
    "text", ["<s>a</s>", "<pad>", " </s> ", "<unk><unk>", "a , b .", "it 's", "  ", "\n\n", "do n't"]
)
def test_texts_that_tokenizers_like_to_change(text, tmp_path):
    save_tokenizer(CHARACTERS, tmp_path)
    for tokenizer in (CHARACTERS, load_tokenizer(tmp_path), AutoTokenizer.from_pretrained(str(tmp_path))):
        assert len(tokenizer.encode(text)) == len(text) + 1
        assert decode(tokenizer, [tokenizer.encode(text)]) == [text]
        batch = tokenizer([text, "longer " * 9], padding=True)
        assert decode(tokenizer, batch["input_ids"]) == [text, "longer " * 9]


def test_decomposed_text_is_composed_first():
    decomposed = unicodedata.normalize("NFD", "Größe")
    assert CHARACTERS.encode(decomposed) == CHARACTERS.encode("Größe")
    assert decode(CHARACTERS, [CHARACTERS.encode(decomposed)]) == ["Größe"]


def test_saved_settings_name_a_class_that_older_transformers_know(tmp_path):
    save_tokenizer(CHARACTERS, tmp_path)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert len(load_tokenizer(tmp_path)) == len(ALPHABET) + 4


@pytest.mark.parametrize(("alphabet", "message"), [("", "empty"), ("abca", "'a'"), ("a\u212b", "\u212b")])
def test_alphabets_that_cannot_work(alphabet, message):
    with pytest.raises(TokenizerError, match=message):
        character_tokenizer(alphabet)


def test_what_pads_is_no_text_whatever_it_spells() -> None:
    tokenizer = character_tokenizer("ab")
    a, b = tokenizer.convert_tokens_to_ids(["a", "b"])
    rows = np.array([[[a, b, a, a], [b, a, a, a]]])
    assert decode(tokenizer, rows, [[2, 0]]) == ["ab", ""]
    assert decode(tokenizer, rows, [[3, 4]]) == ["aba", "baaa"]


def test_a_space_in_front_that_is_kept_is_spelt():
    backend = Tokenizer(models.WordLevel({"<unk>": 0, "▁a": 1, "b": 2}, "<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    backend.decoder = decoders.Metaspace(prepend_scheme="never")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", clean_up_tokenization_spaces=False)
    assert decode(tokenizer, [[1, 2]]) == [" ab"]
    assert spellings(tokenizer).first == [None, b" a", b"b"]


def test_a_special_token_without_a_role_spells_nothing(tmp_path):
    """One of `add_tokens(…, special_tokens=True)`, which is in none of the tokenizer's named special tokens."""
    made = character_tokenizer("ab")
    made.add_tokens(["<math>"], special_tokens=True)
    save_tokenizer(made, tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    ids = tokenizer.convert_tokens_to_ids(["a", "<math>", "b"])
    assert decode(tokenizer, [ids]) == ["ab"]
    assert [spellings(tokenizer)[i] for i in ids] == [b"a", None, b"b"]
