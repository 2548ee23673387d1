"""Keys of LLaMA-Factory that are not quire's own: noted, or refused with the way out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_TRAINING = """
    account_for_embedding_in_pipeline_split account_for_loss_in_pipeline_split additional_target
    apollo_layerwise apollo_proj apollo_proj_type apollo_rank apollo_scale apollo_scale_front
    apollo_scale_type apollo_target apollo_update_interval apply_rope_fusion asft_alpha
    badam_mask_mode badam_mode badam_start_block badam_switch_interval badam_switch_mode
    badam_update_ratio badam_verbose batch_size bias_activation_fusion buffer_size
    calculate_per_token_loss compute_accuracy context_parallel_size create_new_adapter
    cross_entropy_loss_fusion data_shared_file_system disable_gradient_checkpointing
    disable_shuffling download_mode dpo_label_smoothing eaft_alpha early_stopping_steps
    enable_torch_profiler eval_dataset eval_num_beams eval_on_each_dataset
    expert_model_parallel_size extra_config fp8 fp8_backend fp8_enable_fsdp_float8_all_gather
    freeze_extra_modules freeze_language_model freeze_multi_modal_projector
    freeze_trainable_layers freeze_trainable_modules freeze_vision_tower galore_layerwise
    galore_proj_type galore_rank galore_scale galore_target galore_update_interval
    hyper_parallel_args hyper_parallel_cp_size ignore_pad_token_for_loss
    include_effective_tokens_per_second init_special_tokens interleave_probs kto_chosen_weight
    kto_rejected_weight lang ld_alpha lora_alpha lora_dropout lora_rank lora_target
    loraplus_lr_embedding loraplus_lr_ratio mask_history masked_softmax_fusion master_addr
    master_port megatron_bridge_args megatron_pretrained_checkpoint micro_batch_size
    mix_strategy mixed_precision module_dropout moe_aux_loss_coef moe_grouped_gemm
    moe_token_dispatcher_type n_shot neat_packing oft_block_size oft_rank oft_target
    overlap_grad_reduce overlap_param_gather overwrite_cache overwrite_output_dir packing
    pipeline_model_parallel_size pissa_convert pissa_init pissa_iter plot_loss ppo_buffer_size
    ppo_epochs ppo_score_norm ppo_target ppo_whiten_rewards pref_bco_weight pref_beta pref_ftx
    pref_loss preprocessing_batch_size preprocessing_num_workers profile_modules
    profiler_active_steps profiler_output_dir profiler_profile_memory profiler_record_shapes
    profiler_repeat profiler_wait_steps profiler_warmup_steps profiler_with_stack pure_bf16
    ray_init_kwargs ray_num_workers recompute_granularity recompute_method recompute_num_layers
    ref_model ref_model_adapters ref_model_quantization_bit reward_model reward_model_adapters
    reward_model_quantization_bit reward_model_type save_dir seed sequence_parallel shift_attn
    simpo_gamma streaming swanlab_api_key swanlab_lark_secret swanlab_lark_webhook_url
    swanlab_logdir swanlab_mode swanlab_project swanlab_run_name swanlab_workspace task task_dir
    tensor_model_parallel_size tokenized_path train_on_prompt upcast_layernorm
    upcast_lmhead_output use_adam_mini use_apollo use_asft_loss use_badam use_dft_loss
    use_distributed_optimizer use_dora use_eaft_loss use_galore use_hyper_parallel use_llama_pro
    use_mca use_megatron_bridge use_muon use_packed_sequences use_reentrant_gc use_rslora
    use_swanlab use_unsloth_gc val_size virtual_pipeline_model_parallel_size
"""
"""LLaMA-Factory's own arguments for training, evaluation, logging and its launchers."""

_TRAINER = """
    accelerator_config adafactor adam_beta1 adam_beta2 adam_epsilon auto_find_batch_size
    average_tokens_across_devices batch_eval_metrics bf16 bf16_full_eval data_seed
    dataloader_drop_last dataloader_in_order dataloader_multiprocessing_context
    dataloader_num_workers dataloader_persistent_workers dataloader_pin_memory
    dataloader_prefetch_factor ddp_backend ddp_broadcast_buffers ddp_bucket_cap_mb
    ddp_find_unused_parameters ddp_static_graph ddp_timeout debug deepspeed disable_tqdm
    dispatch_batches do_eval do_predict do_train enable_jit_checkpoint eval_accumulation_steps
    eval_delay eval_do_concat_batches eval_on_start eval_steps eval_strategy
    eval_use_gather_object evaluation_strategy fp16 fp16_backend fp16_full_eval fp16_opt_level
    fsdp fsdp_config fsdp_min_num_params fsdp_transformer_layer_cls_to_wrap full_determinism
    generation_config generation_max_length generation_num_beams gradient_accumulation_steps
    gradient_checkpointing gradient_checkpointing_kwargs greater_is_better group_by_length
    half_precision_backend hub_always_push hub_model_id hub_private_repo hub_revision
    hub_strategy hub_token ignore_data_skip include_for_metrics include_inputs_for_metrics
    include_num_input_tokens_seen include_tokens_per_second jit_mode_eval label_names
    label_smoothing_factor learning_rate length_column_name liger_kernel_config
    load_best_model_at_end local_rank log_level log_level_replica log_on_each_node logging_dir
    logging_first_step logging_nan_inf_filter logging_steps logging_strategy lr_scheduler_kwargs
    lr_scheduler_type max_grad_norm max_steps metric_for_best_model mp_parameters
    neftune_noise_alpha no_cuda num_train_epochs optim optim_args optim_target_modules
    output_dir parallelism_config past_index per_device_eval_batch_size
    per_device_train_batch_size per_gpu_eval_batch_size per_gpu_train_batch_size
    predict_with_generate prediction_loss_only project push_to_hub push_to_hub_model_id
    push_to_hub_organization push_to_hub_token ray_scope remove_unused_columns report_to
    restore_callback_states_from_checkpoint resume_from_checkpoint run_name save_on_each_node
    save_only_model save_safetensors save_steps save_strategy save_total_limit
    skip_memory_metrics sortish_sampler split_batches tf32 torch_compile torch_compile_backend
    torch_compile_mode torch_empty_cache_steps torchdynamo tpu_metrics_debug tpu_num_cores
    trackio_bucket_id trackio_space_id trackio_static_space_id train_sampling_strategy use_cache
    use_cpu use_ipex use_legacy_prediction_loop use_liger_kernel use_mps_device warmup_ratio
    warmup_steps weight_decay
"""
"""transformers' Seq2SeqTrainingArguments, from 4.40 to 5.19."""

_FORMER = """
    badam_switch_block_every dataset_map_batch_size dataset_shards dev_ratio
    disable_version_checking dpo_beta dpo_ftx dpo_loss dpo_ref_model dpo_ref_model_checkpoint
    efficient_packing eval_tokenized_path kto_beta kto_desirable_weight kto_ftx
    kto_undesirable_weight layernorm_dtype loftq_init lora_bf16_mode lora_lr_ratio
    max_source_length max_target_length name_module_trainable neft_alpha num_layer_trainable
    orpo_beta ppo_logger ray_run_name ray_storage_filesystem ray_storage_path
    ref_model_checkpoint reserved_label_len resume_lora_training reward_model_checkpoint
    sft_packing source_prefix swanlab_config swanlab_description swanlab_experiment_name
    swanlab_name switch_block_every train_last_turn_only train_mm_proj_only tune_mm_proj
    use_adammini
"""
"""Training arguments of LLaMA-Factory's earlier versions."""

_EXPORT = """
    export_device export_dir export_hf_on_finish export_hub_model_id export_legacy_format
    export_quantization_bit export_quantization_dataset export_quantization_maxlen
    export_quantization_nsamples export_size
"""

TRAINING_KEYS = frozenset(f"{_TRAINING} {_TRAINER} {_FORMER} {_EXPORT}".split())
"""Accepted in a user's file, and named in one line of the log."""

WITHOUT_EFFECT: Mapping[str, str] = {
    "flash_attn": "each engine has its own attention, with the same result",
    "low_cpu_mem_usage": "weights are always mapped, not copied",
    "offload_folder": "nothing is offloaded to the disk",
    "use_v1_kernels": "each engine has its own kernels",
    "enable_liger_kernel": "each engine has its own kernels",
    "use_unsloth": "each engine has its own kernels",
    "print_param_status": "it describes training",
    "om_hub_token": "models come from a folder, from the Hugging Face Hub or from ModelScope",
    "cpu_infer": "it belongs to KTransformers",
    "chunk_size": "it belongs to KTransformers",
    "double_quantization": "it belongs to bitsandbytes",
    "quantization_device_map": "it belongs to bitsandbytes",
}
"""Keys of inference that change no answers here, each with the reason."""

_FOREIGN_ENGINES: Mapping[str, str] = {
    "sglang_": "it belongs to SGLang",
    "kt_": "it belongs to KTransformers",
}

_REFUSED: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "use_kt": ((False,), "KTransformers is no engine of quire; use infer_backend native or vllm"),
    "train_from_scratch": ((False,), "it would answer from random weights; leave it out"),
    "mixture_of_depths": ((), "no engine here runs mixture-of-depths models"),
    "quantization_type": (("nf4",), "it belongs to bitsandbytes; leave it out"),
    "image_do_pan_and_scan": ((False,), "images are not panned and scanned; leave it out"),
    "crop_to_patches": ((False,), "images are not cropped to patches; leave it out"),
    "new_special_tokens_config": ((), "list the tokens in add_special_tokens"),
}
"""Keys that would change the answers: the values without effect, and why others are refused."""

RENAMED: Mapping[str, str] = {
    "checkpoint_dir": "adapter_name_or_path",
    "hf_auth_token": "hf_hub_token",
    "image_dir": "media_dir",
    "image_max_resolution": "image_max_pixels",
    "image_min_resolution": "image_min_pixels",
    "image_resolution": "image_max_pixels",
    "new_normal_tokens": "add_tokens",
    "new_special_tokens": "add_special_tokens",
    "prompt_template": "template",
    "system_prompt": "default_system",
    "video_max_resolution": "video_max_pixels",
    "video_min_resolution": "video_min_pixels",
    "video_resolution": "video_max_pixels",
    "vllm_dtype": "infer_dtype",
}
"""Names that LLaMA-Factory itself gave up, and what they are called now."""

DATA_SET_KEYS = frozenset(["cutoff_len", "dataset", "dataset_dir", "max_samples"])
"""Arguments of batches (`quire.batch`): elsewhere they are named in the log as well."""

FOREIGN_KEYS = TRAINING_KEYS | frozenset(WITHOUT_EFFECT) | frozenset(_REFUSED)


def reason_without_effect(key: str) -> str | None:
    """Why `key` changes nothing here, or None if it is not such a key."""
    for prefix, reason in _FOREIGN_ENGINES.items():
        if key.startswith(prefix):
            return reason
    return WITHOUT_EFFECT.get(key)


def is_refusable(key: str) -> bool:
    """Whether some values of `key` are refused."""
    return key in _REFUSED


def refusal(key: str, value: Any) -> str | None:
    """Why `key` cannot have this value, or None where it does no harm."""
    harmless, reason = _REFUSED[key]
    return None if value is None or value in harmless else reason
