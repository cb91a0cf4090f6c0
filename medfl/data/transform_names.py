"""The transforms of MONAI and albumentations that a pipeline or site file may name.

They make pixels out of pixels and numbers. Left out is whatever reads, writes or deletes files, calls a function that
an argument names, needs further images or labels, or makes anything but one image.
"""

from __future__ import annotations


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


MONAI = _names(
    """
    AdjustContrastd ClipIntensityPercentilesd GaussianSharpend GaussianSmoothd GibbsNoised HistogramNormalized
    KSpaceSpikeNoised MedianSmoothd NormalizeIntensityd SavitzkyGolaySmoothd ScaleIntensityd ScaleIntensityRanged
    ScaleIntensityRangePercentilesd ShiftIntensityd StdShiftIntensityd ThresholdIntensityd RandAdjustContrastd
    RandBiasFieldd RandCoarseDropoutd RandCoarseShuffled RandGaussianNoised RandGaussianSharpend RandGaussianSmoothd
    RandGibbsNoised RandHistogramShiftd RandKSpaceSpikeNoised RandRicianNoised RandScaleIntensityd
    RandScaleIntensityFixedMeand RandShiftIntensityd RandStdShiftIntensityd RandSmoothFieldAdjustContrastd
    RandSmoothFieldAdjustIntensityd Affined Flipd GridDistortiond Resized Rotate90d Rotated Zoomd Rand2DElasticd
    RandAffined RandAxisFlipd RandFlipd RandGridDistortiond RandRotate90d RandRotated RandSimulateLowResolutiond
    RandSmoothDeformd RandZoomd BorderPadd CenterScaleCropd CenterSpatialCropd DivisiblePadd RandScaleCropd
    RandSpatialCropd ResizeWithPadOrCropd SpatialCropd SpatialPadd ExtractHEStainsd NormalizeHEStainsd Identityd
    """
)
ALBUMENTATIONS = _names(
    """
    AdvancedBlur Blur Defocus GaussianBlur GlassBlur MedianBlur MotionBlur ZoomBlur AdditiveNoise AutoContrast CLAHE
    ChannelDropout ChannelShuffle ChromaticAberration ColorJitter Downscale Emboss Equalize FancyPCA GaussNoise
    HEStain HueSaturationValue ISONoise Illumination ImageCompression InvertImg MultiplicativeNoise PlanckianJitter
    PlasmaBrightnessContrast PlasmaShadow Posterize RGBShift RandomBrightnessContrast RandomFog RandomGamma
    RandomGravel RandomRain RandomShadow RandomSnow RandomSunFlare RandomToneCurve RingingOvershoot SaltAndPepper
    Sharpen ShotNoise Solarize Spatter Superpixels ToGray ToSepia UnsharpMask CoarseDropout Erasing GridDropout
    PixelDropout XYMasking Affine D4 ElasticTransform GridDistortion GridElasticDeform HorizontalFlip Morphological
    OpticalDistortion Perspective PiecewiseAffine RandomGridShuffle RandomRotate90 Rotate SafeRotate
    ShiftScaleRotate SquareSymmetry ThinPlateSpline Transpose VerticalFlip CenterCrop Crop CropAndPad LongestMaxSize
    Pad PadIfNeeded RandomCrop RandomCropFromBorders RandomResizedCrop RandomScale RandomSizedCrop Resize
    SmallestMaxSize NoOp
    """
)
