"""langchain-huggingface: HuggingFaceEndpoint and HuggingFaceEndpointEmbeddings.

HuggingFaceEndpoint always sends stop, watermark, do_sample, return_full_text, typical_p, top_p, temperature and
max_new_tokens (512).
"""

import asyncio

from checks import check, main
from langchain_core.prompts import PromptTemplate
from langchain_huggingface import HuggingFaceEndpoint, HuggingFaceEndpointEmbeddings

BOTH = ("/", "/invocations")
PROMPT = "I like you"


def endpoint(url, **more):
    return HuggingFaceEndpoint(endpoint_url=url, **dict({"max_new_tokens": 6}, **more))


@check("text-generation", routes=BOTH)
def invoke(url):
    text = endpoint(url).invoke(PROMPT)
    assert isinstance(text, str)
    assert text == endpoint(url).invoke(PROMPT), "greedy text differs"


@check("text-generation", routes=BOTH)
def default_parameters(url):
    assert isinstance(HuggingFaceEndpoint(endpoint_url=url).invoke(PROMPT), str)


@check("text-generation", routes=BOTH)
def stop_sequences(url):
    whole = endpoint(url, max_new_tokens=8).invoke(PROMPT)
    stop = whole[len(whole) // 2 :][:2]
    for text in (
        endpoint(url, max_new_tokens=8, stop_sequences=[stop]).invoke(PROMPT),
        endpoint(url, max_new_tokens=8).invoke(PROMPT, stop=[stop]),
    ):
        assert whole.startswith(text)
        assert stop not in text


@check("text-generation", routes=BOTH)
def sampling_with_seed(url):
    llm = endpoint(url, do_sample=True, temperature=0.7, top_k=5, repetition_penalty=1.1, seed=3)
    assert llm.invoke(PROMPT) == llm.invoke(PROMPT)


@check("text-generation", routes=BOTH)
def stream(url):
    parts = list(endpoint(url, streaming=True).stream(PROMPT))
    assert len(parts) > 1
    assert "".join(parts).strip() == endpoint(url).invoke(PROMPT).strip()


@check("text-generation", routes=BOTH)
def asynchronous_calls(url):
    async def call():
        return await asyncio.gather(*(endpoint(url).ainvoke(PROMPT) for _ in range(4)))

    assert asyncio.run(call()) == [endpoint(url).invoke(PROMPT)] * 4


@check("text-generation", routes=BOTH)
def batch_and_chain(url):
    chain = PromptTemplate.from_template("{what} like you") | endpoint(url)
    assert chain.batch([{"what": "I"}, {"what": "I"}]) == [endpoint(url).invoke(PROMPT)] * 2


@check("feature-extraction", "the server answers a vector for each token, not for a text", routes=BOTH)
def embeddings(url):
    """The class refuses an address as its model, so its clients get the address."""
    from huggingface_hub import InferenceClient

    embed = HuggingFaceEndpointEmbeddings(model="someone/model")
    embed.client = InferenceClient(url)
    vectors = embed.embed_documents([PROMPT, "paris"])
    assert len(vectors) == 2
    assert all(isinstance(number, float) for vector in vectors for number in vector)


@check("sentence-embeddings", routes=BOTH)
def sentence_embeddings(url):
    from huggingface_hub import InferenceClient

    embed = HuggingFaceEndpointEmbeddings(model="someone/model")
    embed.client = InferenceClient(url)
    vectors = embed.embed_documents([PROMPT, "paris"])
    assert [len(vector) for vector in vectors] == [32, 32]
    assert all(isinstance(number, float) for vector in vectors for number in vector)
    assert len(embed.embed_query(PROMPT)) == 32


if __name__ == "__main__":
    main()
