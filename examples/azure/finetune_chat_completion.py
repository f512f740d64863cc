# %% [markdown]
# # Fine-tune a chat model with the chat-completion component of the system registry
#
# Written for Azure ML. With an Azure account: `python finetune_chat_completion.py`, next to the `config.json` of a
# workspace. With Tunesmith, on this machine: `tunesmith azure run finetune_chat_completion.py`. Nothing in it differs.
#
# Beside it stands a folder `data` with `train.jsonl`, `validation.jsonl` and `test.jsonl`, one conversation a line:
# `{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}`.

# %%
import ast
import json
import time
from pathlib import Path

import pandas
from azure.ai.ml import Input, MLClient
from azure.ai.ml.constants import AssetTypes
from azure.ai.ml.dsl import pipeline
from azure.ai.ml.entities import (
    AmlCompute,
    ManagedOnlineDeployment,
    ManagedOnlineEndpoint,
    Model,
    OnlineRequestSettings,
    ProbeSettings,
)
from azure.identity import DefaultAzureCredential, InteractiveBrowserCredential

# %% [markdown]
# ## 1. Who I am

# %%
try:
    credential = DefaultAzureCredential()
    credential.get_token("https://management.azure.com/.default")
except Exception:
    credential = InteractiveBrowserCredential()

# %% [markdown]
# ## 2. The workspace, and the registry that ships with Azure ML

# %%
try:
    workspace_client = MLClient.from_config(credential=credential)
except Exception:
    workspace_client = MLClient(
        credential,
        subscription_id="<SUBSCRIPTION_ID>",
        resource_group_name="<RESOURCE_GROUP>",
        workspace_name="<WORKSPACE_NAME>",
    )
registry_client = MLClient(credential, registry_name="azureml")

experiment_name = "chat-completion-finetune"
unique = str(int(time.time()))

# %% [markdown]
# ## 3. The base model

# %%
model_name = "Phi-3-mini-4k-instruct"
foundation_model = registry_client.models.get(model_name, label="latest")
print(f"base model: {foundation_model.name}, version {foundation_model.version}, {foundation_model.id}")

# %% [markdown]
# ## 4. A compute of a size that suits the model

# %%
compute_name = "gpu-cluster-big"
compute_size = "Standard_NC24ads_A100_v4"

allowed = ast.literal_eval(foundation_model.tags.get("finetune_compute_allow_list", "[]"))
if allowed and compute_size.lower() not in [size.lower() for size in allowed]:
    raise ValueError(f"{model_name} is not fine-tuned on {compute_size}, but on one of {allowed}")

try:
    compute = workspace_client.compute.get(compute_name)
    print(f"compute: {compute_name} is there already")
except Exception:
    print(f"compute: {compute_name} is made")
    compute = AmlCompute(name=compute_name, size=compute_size, tier="Dedicated", max_instances=2)
    workspace_client.compute.begin_create_or_update(compute).wait()

compute = workspace_client.compute.get(compute_name)
if compute.provisioning_state.lower() == "failed":
    raise ValueError(f"{compute_name} could not be made: {compute.provisioning_errors}")

gpus_per_node = next(
    (size.gpus for size in workspace_client.compute.list_sizes() if size.name.lower() == compute.size.lower()),
    None,
)
if not gpus_per_node:
    raise ValueError(f"{compute.size} is no size with GPUs")
print(f"compute: {compute.size} has {gpus_per_node} GPU(s)")

# %% [markdown]
# ## 5. Conversations

# %%
data = Path("data")
print(pandas.read_json(data / "train.jsonl", lines=True).head(2))

# %% [markdown]
# ## 6. The pipeline: one node, the component of the system registry

# %%
training_parameters = {
    "num_train_epochs": 3,
    "per_device_train_batch_size": 4,
    "per_device_eval_batch_size": 4,
    "learning_rate": 2e-3,
    "lr_scheduler_type": "cosine",
    "logging_steps": 5,
}
optimization_parameters = {"apply_lora": "true", "apply_deepspeed": "true", "deepspeed_stage": 2}
model_specific_defaults = ast.literal_eval(foundation_model.tags.get("model_specific_defaults", "{}"))
# What the model's publisher found best, then what is wished for here.
parameters = {**model_specific_defaults, **optimization_parameters, **training_parameters}
print(f"parameters: {parameters}")

pipeline_component_func = registry_client.components.get(name="chat_completion_pipeline", label="latest")


@pipeline(name=f"finetune-{model_name}", experiment_name=experiment_name)
def create_pipeline():
    """Fine-tune the base model on the conversations."""
    chat_completion_pipeline = pipeline_component_func(
        mlflow_model_path=foundation_model.id,
        compute_model_import=compute_name,
        compute_preprocess=compute_name,
        compute_finetune=compute_name,
        compute_model_evaluation=compute_name,
        train_file_path=Input(type=AssetTypes.URI_FILE, path=str(data / "train.jsonl")),
        validation_file_path=Input(type=AssetTypes.URI_FILE, path=str(data / "validation.jsonl")),
        test_file_path=Input(type=AssetTypes.URI_FILE, path=str(data / "test.jsonl")),
        number_of_gpu_to_use_finetuning=gpus_per_node,
        **parameters,
    )
    return {"trained_model": chat_completion_pipeline.outputs.mlflow_model_folder}


pipeline_object = create_pipeline()
pipeline_object.settings.force_rerun = True
pipeline_object.settings.continue_on_step_failure = False

# %% [markdown]
# ## 7. Submit it, and watch it train

# %%
pipeline_job = workspace_client.jobs.create_or_update(pipeline_object, experiment_name=experiment_name)
print(f"job: {pipeline_job.name}")
workspace_client.jobs.stream(pipeline_job.name)

# %% [markdown]
# ## 8. Register the tuned model

# %%
finished = workspace_client.jobs.get(pipeline_job.name)
print(f"outputs: {', '.join(finished.outputs)}")
tuned_model = workspace_client.models.create_or_update(
    Model(
        path=f"azureml://jobs/{finished.name}/outputs/trained_model",
        name=f"{model_name}-chitchat",
        type=AssetTypes.MLFLOW_MODEL,
        version=unique,
        description=f"{model_name}, tuned for chitchat",
    )
)
print(f"model: {tuned_model.id}")

# %% [markdown]
# ## 9. An endpoint, opened with a key

# %%
endpoint_name = f"chitchat-{unique}"
endpoint = ManagedOnlineEndpoint(name=endpoint_name, description=f"Endpoint of {tuned_model.name}", auth_mode="key")
workspace_client.begin_create_or_update(endpoint).wait()

# %% [markdown]
# ## 10. A deployment of the tuned model behind it

# %%
deployment = ManagedOnlineDeployment(
    name="demo",
    endpoint_name=endpoint_name,
    model=tuned_model.id,
    instance_type="Standard_NC6s_v3",
    instance_count=1,
    liveness_probe=ProbeSettings(initial_delay=600),
    request_settings=OnlineRequestSettings(request_timeout_ms=90000),
)
workspace_client.online_deployments.begin_create_or_update(deployment).wait()

# %% [markdown]
# ## 11. All of the traffic for it

# %%
endpoint.traffic = {"demo": 100}
endpoint = workspace_client.begin_create_or_update(endpoint).result()
print(f"endpoint: {endpoint.name}, traffic {endpoint.traffic}, {endpoint.scoring_uri}")

# %% [markdown]
# ## 12. Talk to it

# %%
conversation = json.loads((data / "test.jsonl").read_text(encoding="utf-8").splitlines()[0])["messages"]
asked = conversation[:-1] if conversation[-1]["role"] == "assistant" else conversation
request_file = data / "sample_score.json"
request_file.write_text(
    json.dumps(
        {
            "input_data": {
                "input_string": [asked],
                "parameters": {"do_sample": False, "max_new_tokens": 20, "return_full_text": False},
            },
            "params": {},
        }
    ),
    encoding="utf-8",
)
response = workspace_client.online_endpoints.invoke(
    endpoint_name=endpoint_name, deployment_name="demo", request_file=str(request_file)
)
print(f"answer: {response}")

# %% [markdown]
# ## 13. Clean up

# %%
workspace_client.online_endpoints.begin_delete(name=endpoint_name).wait()
print("endpoint: deleted")
