"""LCEL over passages of your own, streamed."""

from langchain_core.documents import Document
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate

from refrag_rag import Refrag
from refrag_rag.langchain import ChatRefrag, RefragCompressor, RefragIndexer

engine = Refrag.load("smol")
documents = RefragIndexer(engine).transform_documents(
    [
        Document("Danube\n\nThe Danube is 2,850 km long. The river flows into the Black Sea."),
        Document("Titanic\n\nThe captain of the Titanic was Edward Smith."),
    ]
)
question = "Who was the captain of the Titanic?"
marked = RefragCompressor().compress_documents(list(documents), question)
prompt = ChatPromptTemplate.from_messages([("human", "{context}\n\nQuestion: {question}")])
chain = prompt | ChatRefrag(engine) | StrOutputParser()
context = "\n\n".join(document.page_content for document in marked)
for piece in chain.stream({"context": context, "question": question}):
    print(piece, end="", flush=True)
print()
