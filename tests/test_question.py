"""What a prompt asks, among the words of its template."""

import time

import pytest
from llama_index.core.prompts import chat_prompts, default_prompts

from refrag_rag.question import find_question

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
