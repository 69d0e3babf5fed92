"""A LlamaIndex query engine with compressed passages: one engine, three places."""

from llama_index.core import Document, Settings, VectorStoreIndex
from llama_index.embeddings.huggingface import HuggingFaceEmbedding

from refrag_rag import Refrag
from refrag_rag.demo.questions import demo_folder
from refrag_rag.evaluation.retrieval import embedding_model_folder
from refrag_rag.llama_index import RefragLLM, RefragPostprocessor, RefragTransform

files = sorted((demo_folder() / "documents").iterdir())
documents = [Document(text=path.read_text("utf-8")) for path in files]
embed_model = HuggingFaceEmbedding(str(embedding_model_folder()), device="cpu")

engine = Refrag.load("smol", store="./vectors", p=0.2)
index = VectorStoreIndex.from_documents(
    documents, transformations=[RefragTransform(engine)], embed_model=embed_model
)
llm = RefragLLM(engine)
Settings.tokenizer = llm.tokenizer()  # counts a passage as the positions it takes
query_engine = index.as_query_engine(
    llm=llm, node_postprocessors=[RefragPostprocessor(engine)], similarity_top_k=4
)
for question in ("Who was the captain of the Titanic?", "Where is the head office of Nintendo?"):
    print(question, "->", query_engine.query(question))
