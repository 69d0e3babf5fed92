"""Evaluators judge by the original text."""

import asyncio

import pytest
from llama_index.core.evaluation import (
    BatchEvalRunner,
    ContextRelevancyEvaluator,
    FaithfulnessEvaluator,
    RelevancyEvaluator,
)

from refrag_rag.spans import CLOSE
from tests.llama_index.chains import ScriptedLLM, check_vectors
from tests.sample_texts import QUESTION, TEXTS

EVALUATORS = {
    "faithfulness": FaithfulnessEvaluator,
    "relevancy": RelevancyEvaluator,
}


def mode(name, note=""):
    return pytest.mark.mode("LlamaIndex", f"evaluator `{name}`", "works", note)


def originals(prompts):
    return [name for name, text in TEXTS.items() if any(text in prompt for prompt in prompts)]


@pytest.mark.parametrize("way", ["sync", "async"])
@pytest.mark.parametrize(
    "name",
    [
        pytest.param("faithfulness", marks=mode("FaithfulnessEvaluator")),
        pytest.param("relevancy", marks=mode("RelevancyEvaluator")),
    ],
)
def test_the_judge_reads_the_original_text(chain, recorded, name, way):
    judge = ScriptedLLM(script="YES")
    evaluator = EVALUATORS[name](llm=judge)
    response = chain.query_engine().query(QUESTION)
    if way == "sync":
        verdict = evaluator.evaluate_response(query=QUESTION, response=response)
    else:
        verdict = asyncio.run(evaluator.aevaluate_response(query=QUESTION, response=response))
    assert verdict.passing
    assert verdict.contexts == [node.text for node in response.source_nodes]
    assert len(originals(judge.prompts)) == 2
    assert not any(CLOSE in prompt for prompt in judge.prompts)
    check_vectors(recorded, hits=2)


@mode("ContextRelevancyEvaluator")
def test_context_relevancy_reads_the_original_text(chain):
    judge = ScriptedLLM(script="Fine.\n\n[RESULT] 4")
    response = chain.query_engine().query(QUESTION)
    ContextRelevancyEvaluator(llm=judge).evaluate_response(query=QUESTION, response=response)
    assert len(originals(judge.prompts)) == 2
    assert not any(CLOSE in prompt for prompt in judge.prompts)


@pytest.mark.filterwarnings("ignore:asyncio_module:DeprecationWarning")  # LlamaIndex's own
@mode("BatchEvalRunner")
def test_a_batch_of_evaluations(chain):
    judge = ScriptedLLM(script="YES")
    runner = BatchEvalRunner({"relevancy": RelevancyEvaluator(llm=judge)}, workers=4)
    found = asyncio.run(runner.aevaluate_queries(chain.query_engine(), [QUESTION] * 4))
    assert [result.passing for result in found["relevancy"]] == [True] * 4
    assert len(originals(judge.prompts)) == 2


def test_our_llm_may_be_the_judge_and_reads_plain_text(chain, recorded):
    response = chain.query_engine().query(QUESTION)
    FaithfulnessEvaluator(llm=chain.llm).evaluate_response(response=response)
    assert recorded.calls[-1].answer.counts.spans == 0
    assert any(text in recorded.calls[-1].text for text in TEXTS.values())
