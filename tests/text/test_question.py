"""What a prompt asks, among the words of its template."""

import time

import pytest
from llama_index.core.prompts import chat_prompts, default_prompts

from refrag_rag.text.question import find_question

ASKED = "Who founded Velmora: Works\nand when?"
TEMPLATES = {
    "text QA": default_prompts.DEFAULT_TEXT_QA_PROMPT_TMPL,
    "tree summarize": default_prompts.DEFAULT_TREE_SUMMARIZE_TMPL,
    "refine": default_prompts.DEFAULT_REFINE_PROMPT_TMPL,
    "chat refine": chat_prompts.CHAT_REFINE_PROMPT_TMPL_MSGS[0].content,
    "by hand": "{context_str}\n\nQuestion: {query_str}\nAnswer:",
    "question first": "QUESTION: {query_str}\nAnswer from this: {context_str}",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_question_is_found_in_templates(name):
    words = {"context_str": "", "context_msg": "", "existing_answer": "Anna: Keld"}
    prompt = TEMPLATES[name].format(query_str=ASKED, **words)
    assert find_question(prompt) == ASKED


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("", ""),
        ("  When was it built?\n", "When was it built?"),
        ("Question:\nAnswer:", "Question:\nAnswer:"),
        ("Question: One?\nAnswer: Yes.\nQuestion: Two?\nAnswer:", "Two?"),
        ("I have a question: who is it?", "who is it?"),
        ("The answer to this question is wanted", "The answer to this question is wanted"),
        ("questionable: no", "questionable: no"),
    ],
)
def test_what_is_asked_otherwise(text, asked):
    assert find_question(text) == asked


@pytest.mark.parametrize(
    "text",
    [
        "a question: b " * 20_000 + "query\n" * 20_000 + "answer " * 20_000,
        "question: b" + "\n" * 100_000 + " " * 100_000 + "c",
        "question: b\n" * 20_000,
    ],
)
def test_long_text_takes_no_long_time(text):
    started = time.process_time()
    assert find_question(text).startswith("b")
    assert time.process_time() - started < 2


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("Question: old?\nAnswer: x\n\nNow: who?", "Now: who?"),
        ("Query: old?\nAnswer: x\ny\n\nAnd when was it?\n", "And when was it?"),
        ("Question: old?\nAnswer: x\n\nQuestion: new?", "new?"),
        ("Question: who?\nExisting answer: x\n\nContext.\n\nRefined answer:", "who?"),
        ("Question: who?\nAnswer: x", "who?"),
        ("Question: who?\nAnswer from this: A text.\n\nAnother text.", "who?"),
        ("Frage: Wer war es?\nAntwort:", "Wer war es?"),
        ("Contexto...\nPregunta: ¿Quién?\nRespuesta:", "¿Quién?"),
        ("Texte.\nQuestion : Qui ?\nRéponse :", "Qui ?"),
        ("上下文\n问题\uff1a谁创立了它\uff1f\n回答\uff1a", "谁创立了它\uff1f"),
    ],
)
def test_the_question_that_is_open(text, asked):
    assert find_question(text) == asked
