"""From text to boxes, points and sentences (paper Sec. 3.1): saliency, CRF, components, answers, the prompt store."""
