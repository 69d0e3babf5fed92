"""A LlamaIndex query engine before and after: two lines more, one line changed."""

from pathlib import Path

from llama_index.core import Document, VectorStoreIndex
from llama_index.core.node_parser import SentenceSplitter
from llama_index.embeddings.huggingface import HuggingFaceEmbedding

from refrag_rag import Refrag
from refrag_rag.evaluation.retrieval import embedding_model_folder
from refrag_rag.llama_index import RefragLLM, RefragPostprocessor, RefragTransform

TEXTS = [
    "Danube\n\nThe Danube is 2,850 km long. The river flows into the Black Sea.",
    "Titanic\n\nThe captain of the Titanic was Edward Smith. She was built in Belfast.",
    "Matterhorn\n\nThe Matterhorn rises to 4,478 metres. It was first climbed in 1865.",
]

engine = Refrag.load("tiny", store=Path("vectors"))
index = VectorStoreIndex.from_documents(
    [Document(text=text) for text in TEXTS],
    transformations=[SentenceSplitter(), RefragTransform(engine)],
    embed_model=HuggingFaceEmbedding(str(embedding_model_folder()), device="cpu"),
)
query_engine = index.as_query_engine(
    llm=RefragLLM(engine), node_postprocessors=[RefragPostprocessor(engine)], similarity_top_k=3
)
for question in ("Who was the captain of the Titanic?", "How long is the Danube?"):
    print(question, "->", query_engine.query(question))
