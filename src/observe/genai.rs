//! Names that OpenTelemetry's semantic conventions for generative AI give to what is observed here.

/// Operations that this crate's inspectors find, and what all others are counted as.
#[cfg(feature = "metrics")]
pub(super) const OPERATIONS: [&str; 6] = ["chat", "embeddings", "generate_content", "text_completion", "transcription", "other"];

/// The place of an operation among those.
#[cfg(feature = "metrics")]
pub(super) fn operation(name: Option<&str>) -> usize {
    let others = OPERATIONS.len() - 1;
    OPERATIONS[..others].iter().position(|known| Some(*known) == name).unwrap_or(others)
}

/// The name of a provider, under the usual names of which those of the conventions that differ stand in their place. Of others there is no better one than the operator's.
pub(super) fn provider(label: &str) -> &str {
    match label {
        "azure" => "azure.ai.openai",
        "bedrock" => "aws.bedrock",
        "gemini" | "google" => "gcp.gemini",
        "mistral" | "mistralai" => "mistral_ai",
        "moonshot" => "moonshot_ai",
        "vertex" | "vertex_ai" => "gcp.vertex_ai",
        "watsonx" => "ibm.watsonx.ai",
        "x-ai" | "xai" => "x_ai",
        other => other,
    }
}
